"""What to add where a checkpoint does not say what it is, with a best guess filled in."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatmeter.checkpoint.formats import Format
from flatmeter.errors import FlatmeterError, UsageError
from flatmeter.model.hugging_face_config import PREFIX, Head, read_config
from flatmeter.model.infer import Architecture, Inference, as_architecture, in_words

if TYPE_CHECKING:
    from torch import Tensor

    from flatmeter.checkpoint import Checkpoint

_PLACE = "path/to/net.py:factory"
#: A network that differs in more than this part of its names and shapes is no guess.
_CLOSE = 0.5


def guess_data(tensors: Mapping[str, Tensor]) -> str:
    """Data that a network with these weights may have been trained on."""
    first = next((t for t in tensors.values() if t.dim() >= 2), None)
    classes = outputs(tensors)
    if first is None:
        return "path/to/data.py:factory"
    if first.dim() == 4 and first.shape[1] == 3:
        known = {10: "torchvision:CIFAR10@DIR", 100: "torchvision:CIFAR100@DIR"}
        return known.get(classes, "imagefolder@DIR")
    if first.dim() == 2 and first.shape[1] == 64 and classes == 10:
        return "digits:train"
    gray = (first.dim() == 4 and first.shape[1] == 1) or first.shape[1] == 784
    return "torchvision:MNIST@DIR" if gray and classes == 10 else "path/to/data.py:factory"


def outputs(tensors: Mapping[str, Tensor]) -> int:
    """Rows of the last matrix: the number of outputs of most networks."""
    return int(next((t.shape[0] for t in reversed(list(tensors.values())) if t.dim() == 2), 0))


def missing(
    checkpoint: Checkpoint, lacking: Sequence[str], inference: Inference | None = None
) -> UsageError:
    """The error of a checkpoint of which nothing, or nothing but itself, says what it belongs to.

    Args:
        checkpoint: what was read.
        lacking: of ``model``, ``data`` and ``loss``.
        inference: what names and shapes say of the network, where that was asked.
    """
    own = checkpoint.metadata
    said = {name: own[name] for name in lacking if own.get(name)}
    flags, lines = suggested(checkpoint, lacking, inference)
    shown = [f"{n} {list(t.shape)}" for n, t in list(checkpoint.tensors.items())[:3]]
    begins = f"it begins with {', '.join(shown)}; a guess, to correct where it is wrong:"
    return UsageError(
        _what(lacking, said),
        where=str(checkpoint.path),
        hint="\n".join(
            [
                *(describe(inference) if "model" in lacking and not said else []),
                "if you trust it, name it yourself:" if said else begins,
                f"  {shlex.join(flags)}",
                f"or, in {checkpoint.path.name}.yaml beside it or in flatmeter.yaml:",
                *(f"  {line}" for line in lines),
            ]
        ),
    )


def suggested(
    checkpoint: Checkpoint, lacking: Sequence[str], inference: Inference | None
) -> tuple[list[str], list[str]]:
    """Words to type, and lines of YAML, that say what is lacking, a best guess filled in."""
    guess = _of_the_configuration_beside(checkpoint.path) or guess_model(inference)
    flags: list[str] = []
    lines: list[str] = []
    for name in lacking:
        said = checkpoint.metadata.get(name)
        if name == "model" and not said:
            flags += guess.flags if guess else ["--model", _PLACE]
            lines.append(f"model: {guess.model if guess else _PLACE}")
            lines += ["model_args: " + _yaml(guess.args)] if guess and guess.args else []
        else:
            spec = said or _data_of_folder(checkpoint) or guess_data(checkpoint.tensors)
            flags += [f"--{name}", str(spec)]
            lines.append(f"{name}: {spec}")
    return flags, lines


def _data_of_folder(checkpoint: Checkpoint) -> str | None:
    """The form of data for the network of a Hugging Face folder, by its configuration."""
    if checkpoint.format != Format.HUGGING_FACE.value:
        return None
    try:
        config = read_config(checkpoint.path)
    except FlatmeterError:
        return None
    if config.head is Head.NEXT_TOKEN:
        return "text:FILE"
    if config.head.reads_text:
        return "FILE.pt"
    return f"imagefolder:{config.image_shape[1]}@DIR" if config.image_shape else None


def _of_the_configuration_beside(path: Path) -> Architecture | None:
    """The network of the Hugging Face folder that a file of weights lies in."""
    if path.is_dir() or not (path.parent / "config.json").is_file():
        return None
    try:
        read_config(path.parent)
    except FlatmeterError:
        return None
    return Architecture(f"{PREFIX}{path.parent}", {})


def guess_model(inference: Inference | None) -> Architecture | None:
    """The network that weights most probably belong to; none where they are like nothing known."""
    if inference is None:
        return None
    if inference.exact:
        return inference.exact[0]
    close = [d for d in inference.nearest[:1] if d.share <= _CLOSE]
    return as_architecture(close[0]) if close else None


def describe(inference: Inference | None) -> list[str]:
    """Lines on why no single network was recognised."""
    if inference is None:
        return []
    if inference.exact:
        head = (
            f"the file says {inference.says}, and its names and shapes are those of:"
            if inference.says
            else "its names and shapes are those of:"
            if len(inference.exact) == 1
            else "its names and shapes are those of several networks; say which:"
        )
        return [head, *(f"  {shlex.join(one.flags)}" for one in inference.exact)]
    if not inference.nearest:
        return ["its names are like those of no network of torchvision or timm"]
    return [
        "its names and shapes are those of no known network; the nearest:",
        *(f"  {as_architecture(d)}: {in_words(d)}" for d in inference.nearest),
    ]


def _what(lacking: Sequence[str], said: Mapping[str, Any]) -> str:
    if said:
        named = " and ".join(f"{value} for its {name}" for name, value in said.items())
        return f"the checkpoint names code to run, {named}; a checkpoint alone is not obeyed"
    asked = {"model": "which network these weights belong to", "data": "which data it learnt from"}
    return f"nothing says {' and '.join(asked[name] for name in lacking)}"


def _yaml(args: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{k}: {v}" for k, v in args.items()) + "}"
