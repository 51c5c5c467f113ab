"""An inspected checkpoint as text: one fact a line, folded to the page."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from flatmeter.checkpoint import Checkpoint
from flatmeter.checkpoint.pickle_names import PickleNames
from flatmeter.cli.units import size
from flatmeter.inspection import Inspection, Network
from flatmeter.missing import describe
from flatmeter.model.infer import Architecture, in_words

_PLACES = {
    "@DIR": "DIR is the folder of the data",
    "text:FILE": "FILE is a text that it learnt from",
    "FILE.pt": "FILE.pt holds input_ids, attention_mask and labels",
    "path/to/net.py:factory": "path/to/net.py:factory builds the network",
    "path/to/data.py:factory": "path/to/data.py:factory gives the data",
}
_HEADS = 14
_SHOWN = 4
_LONGEST = 200


def to_text(found: Inspection, width: int, *, verbose: bool) -> str:
    """What is known of a checkpoint.

    Args:
        found: that.
        width: of the page.
        verbose: list every tensor and every name.
    """
    checkpoint = found.checkpoint
    facts: list[tuple[str, str]] = [("format", _format(found))]
    if found.refused is not None:
        facts.append(("refused", found.refused.message))
        facts += [("", line) for line in (found.refused.hint or "").splitlines()]
    if checkpoint is not None:
        facts.append(("sha256", checkpoint.sha256))
        facts.append(("weights", _weights(checkpoint)))
        facts += [("", note) for note in found.notes]
        facts.append(("tensors", _sum(checkpoint.tensors)))
        facts += [("", line) for line in _tensors(checkpoint.tensors, verbose)]
        facts += _headed("metadata", _metadata(checkpoint.metadata))
        facts += _headed("network", _network(found.network))
        facts.append(("input", _input(found.network)))
        facts.append(("symmetries", _symmetries(found)))
        facts += _headed("tied", [" = ".join(group) for group in found.tied] or ["nothing"])
    if found.pickled is not None:
        facts += _headed("pickled names", _names(found.pickled, verbose))
    lines = [_clean(str(found.path))]
    for head, text in facts:
        lines += _fact(head, _clean(text), width)
    if found.command:
        # Never folded, so that it can be copied.
        lines += ["", f"  {_clean(found.command)}"]
        lines += [f"  ({text})" for text in _remarks(found)]
    return "\n".join(lines) + "\n"


def _remarks(found: Inspection) -> list[str]:
    """What is left to be filled in, or decided, in the line to type next."""
    words = shlex.split(found.command)
    remarks = [text for place, text in _PLACES.items() if any(w.endswith(place) for w in words[3:])]
    inference = found.network.inference
    if inference is not None and inference.chosen is None and inference.exact:
        remarks.append(f"the first of the networks above: {len(inference.exact)} fit")
    elif inference is not None and inference.chosen is None and "--model" in words:
        remarks.append("the network is a guess" if "path/to/net" not in found.command else "")
    return [remark for remark in remarks if remark]


def _headed(head: str, lines: Sequence[str]) -> list[tuple[str, str]]:
    return [(head if i == 0 else "", line) for i, line in enumerate(lines)]


def _fact(head: str, text: str, width: int) -> list[str]:
    start = f"  {head:{_HEADS}}"
    if text.startswith(" "):  # code, which is never folded
        return [start + text]
    return textwrap.wrap(
        text,
        width,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_on_hyphens=False,
        drop_whitespace=True,
    ) or [start.rstrip()]


def _format(found: Inspection) -> str:
    name = found.format or "none that is known"
    return f"{name}, {size(found.size)}" if found.size else name


def _weights(checkpoint: Checkpoint) -> str:
    return f"under {checkpoint.key!r}" if checkpoint.key else "the file's own entries"


def _sum(tensors: Mapping[str, Tensor]) -> str:
    kinds = Counter(str(t.dtype).removeprefix("torch.") for t in tensors.values())
    numbers = sum(t.numel() for t in tensors.values())
    count = sum(t.numel() * t.element_size() for t in tensors.values())
    listed = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
    return f"{len(tensors)} ({listed}), {numbers:,} numbers, {size(count)}"


def _tensors(tensors: Mapping[str, Tensor], verbose: bool) -> list[str]:
    lines = [f"{name} {list(t.shape)}" for name, t in tensors.items()]
    if verbose:
        kinds = [str(t.dtype).removeprefix("torch.") for t in tensors.values()]
        return [f"{line} {kind}" for line, kind in zip(lines, kinds, strict=True)]
    if len(lines) <= 2 * _SHOWN:
        return lines
    return [*lines[:_SHOWN], f"… {len(lines) - 2 * _SHOWN} more (-v)", *lines[-_SHOWN:]]


def _metadata(metadata: Mapping[str, Any]) -> list[str]:
    said = {k: v for k, v in metadata.items() if k != "stored"} | metadata.get("stored", {})
    return [f"{k}: {_value(v)}" for k, v in said.items()] or ["none"]


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _network(network: Network) -> list[str]:
    if not network.model and network.unbuilt:
        return network.unbuilt.splitlines()
    if not network.model:
        return describe(network.inference)
    name = str(Architecture(network.architecture or network.model, network.args or {}))
    if network.unbuilt:
        head, *rest = network.unbuilt.splitlines()
        return [f"{name}, named by {network.said_by}; {head}", *rest]
    if not network.said_by:
        return [f"{name}, told by names and shapes"]
    if network.code:
        return [f"{name}, named by {network.said_by}; code, which is not run here"]
    if network.difference is not None and network.difference.share:
        return [
            f"{name}, named by {network.said_by}, does not fit: {in_words(network.difference)}",
            *describe(network.inference),
        ]
    return [f"{name}, named by {network.said_by}; names and shapes fit"]


def _input(network: Network) -> str:
    if network.positions is not None:
        known = f"up to {network.positions:,} tokens"
        return known if network.classes is None else f"{known}; {network.classes:,} outputs"
    shape = " × ".join("any" if n is None else str(n) for n in network.input_shape)
    known = shape or "shape not known"
    if network.inference is not None and shape and "image_size" not in (network.args or {}):
        known += " (usually)"
    return known if network.classes is None else f"{known}; {network.classes:,} outputs"


def _symmetries(found: Inspection) -> str:
    if found.symmetries is None:
        return f"not counted: {found.uncounted}"
    return f"{found.symmetries} independent scalings of tensors change no output"


def _names(names: PickleNames, verbose: bool) -> list[str]:
    admitted = [name for name in names.every if name not in names.unusual]
    lines = []
    if names.unusual:
        lines.append("not admitted: " + _listed(names.unusual, verbose))
    if admitted or not lines:
        lines.append("admitted: " + (_listed(admitted, verbose) or "none"))
    return lines


def _listed(names: Sequence[str], verbose: bool) -> str:
    shown = names if verbose else names[: 2 * _SHOWN]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more (-v)" if rest else "")


def _clean(text: str) -> str:
    """What a file says, without characters that would steer the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
