"""What to add where a checkpoint does not say what it is, with a best guess filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flatmeter.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from flatmeter.checkpoint import Checkpoint

_RESNETS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
}


def guess_model(tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """A model's name and arguments that the weights may belong to.

    Returns:
        The name and arguments; a placeholder where the weights look like nothing known.
    """
    blocks: dict[int, set[int]] = {}
    for name in tensors:
        found = re.search(r"layer(\d)\.(\d+)\.conv1\.weight$", name)
        if found:
            blocks.setdefault(int(found[1]), set()).add(int(found[2]))
    counts = tuple(len(blocks[i]) for i in sorted(blocks))
    deep = any(re.search(r"layer1\.0\.conv3\.weight$", name) for name in tensors)
    resnet = _RESNETS.get((deep, counts))
    if resnet is None:
        return "path/to/net.py:factory", {}
    return f"torchvision:{resnet}", {"num_classes": _outputs(tensors)}


def guess_data(tensors: Mapping[str, Tensor]) -> str:
    """Data that a network with these weights may have been trained on."""
    first = next((t for t in tensors.values() if t.dim() >= 2), None)
    classes = _outputs(tensors)
    if first is None:
        return "path/to/data.py:factory"
    if first.dim() == 4 and first.shape[1] == 3:
        known = {10: "torchvision:CIFAR10@DIR", 100: "torchvision:CIFAR100@DIR"}
        return known.get(classes, "imagefolder@DIR")
    if first.dim() == 2 and first.shape[1] == 64 and classes == 10:
        return "digits:train"
    gray = (first.dim() == 4 and first.shape[1] == 1) or first.shape[1] == 784
    return "torchvision:MNIST@DIR" if gray and classes == 10 else "path/to/data.py:factory"


def _outputs(tensors: Mapping[str, Tensor]) -> int:
    """Rows of the last matrix: the number of outputs of most networks."""
    return int(next((t.shape[0] for t in reversed(list(tensors.values())) if t.dim() == 2), 0))


def missing(checkpoint: Checkpoint, lacking: Sequence[str]) -> UsageError:
    """The error of a checkpoint of which nothing, or nothing but itself, says what it belongs to.

    Args:
        checkpoint: what was read.
        lacking: of ``model``, ``data`` and ``loss``.
    """
    own = checkpoint.metadata
    said = {name: own[name] for name in lacking if own.get(name)}
    flags: list[str] = []
    lines: list[str] = []
    for name in lacking:
        if name == "model" and name not in said:
            spec, args = guess_model(checkpoint.tensors)
            flags += [f"--model {spec}", *(f"--model-arg {k}={v}" for k, v in args.items())]
            lines += [f"model: {spec}", *(["model_args: " + _yaml(args)] if args else [])]
        else:
            spec = said.get(name) or guess_data(checkpoint.tensors)
            flags.append(f"--{name} {spec}")
            lines.append(f"{name}: {spec}")
    shown = [f"{n} {list(t.shape)}" for n, t in list(checkpoint.tensors.items())[:3]]
    begins = f"it begins with {', '.join(shown)}; a guess, to correct where it is wrong:"
    return UsageError(
        _what(lacking, said),
        where=str(checkpoint.path),
        hint="\n".join(
            [
                "if you trust it, name it yourself:" if said else begins,
                f"  {' '.join(flags)}",
                f"or, in {checkpoint.path.name}.yaml beside it or in flatmeter.yaml:",
                *(f"  {line}" for line in lines),
            ]
        ),
    )


def _what(lacking: Sequence[str], said: Mapping[str, Any]) -> str:
    if said:
        named = " and ".join(f"{value} for its {name}" for name, value in said.items())
        return f"the checkpoint names code to run, {named}; a checkpoint alone is not obeyed"
    asked = {"model": "which network these weights belong to", "data": "which data it learnt from"}
    return f"nothing says {' and '.join(asked[name] for name in lacking)}"


def _yaml(args: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{k}: {v}" for k, v in args.items()) + "}"
