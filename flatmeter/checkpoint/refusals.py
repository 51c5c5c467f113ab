"""Why a file is not read, in a sentence, and what to do about it."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Sequence
from pathlib import Path

from flatmeter.checkpoint.formats import CONVERSIONS, Format
from flatmeter.checkpoint.recognise import first_bytes
from flatmeter.checkpoint.zip_directory import BrokenZip, member_names
from flatmeter.errors import CheckpointRefused

_READABLE = "flatmeter reads what torch.save wrote of a state_dict, and safetensors"

_OTHERS = (
    (re.compile(rb"\s*<(?:!doctype|html)", re.I), "an HTML page, as of a failed download", "fetch "
     "the file itself: the page says what went wrong"),
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer, not the file itself",
     "run: git lfs pull"),
    (re.compile(rb"PK(?:\x03\x04|\x05\x06)"), "a zip archive that PyTorch did not write",
     "unpack it if the checkpoint is inside"),
    (re.compile(rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!"),
     "a compressed file", "unpack it first"),
)  # fmt: skip


class NeedsTrust(CheckpointRefused):
    """A file that only ``--trust-pickle`` reads."""


def refuse_format(path: Path, found: Format) -> CheckpointRefused:
    """The refusal of a format that is known but not read, with the way to convert it."""
    hint = CONVERSIONS[found].replace("FILE", path.name).replace("FOLDER", str(path))
    if found is Format.DAMAGED_ZIP:
        return CheckpointRefused(
            f"the file is damaged or cut short: {_fault(path)}", where=str(path), hint=hint
        )
    if found in (Format.TORCHSCRIPT, Format.PICKLE):
        hint += f"\n{_door(path)}"
    article = "an" if found.value[0] in "AEHIO" else "a"
    file = "" if path.is_dir() else " file"
    return CheckpointRefused(f"this is {article} {found.value}{file}", where=str(path), hint=hint)


def _fault(path: Path) -> str:
    try:
        member_names(path)
    except BrokenZip as error:
        return str(error)
    return "it changed while it was looked at"


def refuse_unknown(path: Path) -> CheckpointRefused:
    """The refusal of what is no checkpoint, saying what it seems to be."""
    if path.is_dir():
        return CheckpointRefused(
            "this is a folder, not a checkpoint", where=str(path), hint="name the file in it"
        )
    if not stat.S_ISREG(path.stat().st_mode):
        return CheckpointRefused("this is not an ordinary file", where=str(path))
    head = first_bytes(path)
    if not head:
        return CheckpointRefused("the file is empty", where=str(path), hint="fetch it again")
    for pattern, what, hint in _OTHERS:
        if pattern.match(head):
            return CheckpointRefused(f"this is {what}", where=str(path), hint=hint)
    if not head.strip(b"\0"):
        return CheckpointRefused(
            "the file begins with nothing but zeros", where=str(path), hint="fetch it again"
        )
    if not re.search(rb"[^\t\n\r\x20-\x7e\x80-\xff]", head) and _is_text(head):
        return CheckpointRefused("this is a text file", where=str(path), hint=_READABLE)
    return CheckpointRefused(
        f"no known format begins with the bytes {head[:8].hex(' ')}",
        where=str(path),
        hint=_READABLE,
    )


def refuse_damaged(path: Path, error: Exception) -> CheckpointRefused:
    """The refusal of a file that is of a known format, but cannot be read to its end."""
    # torch's advice comes before what went wrong, and suggests to run the file's code.
    text = str(error).rpartition("WeightsUnpickler error: ")[2]
    said = re.sub(r"\x1b\[\d+m", "", text).strip().partition("\n")[0]
    said = said.partition(". Please use")[0]
    detail = f" ({said[:200]})" if said else ""
    return CheckpointRefused(
        f"the file is damaged or cut short: {type(error).__name__}{detail}",
        where=str(path),
        hint="fetch it again, or take the checkpoint before it",
    )


def refuse_pickled(path: Path, names: Sequence[str], *, whole: bool) -> CheckpointRefused:
    """The refusal of a pickle that names code besides tensors.

    Args:
        path: of the file.
        names: of the classes and functions that are not admitted.
        whole: the pickled object is one of them itself, a whole module.
    """
    listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    name = os.fspath(path.name)
    taken = (
        "loaded.state_dict()  # of a module; of a mapping: dict(loaded)"
        if whole
        else "loaded['state_dict']  # or whichever entry holds the weights"
    )
    if any(name.startswith("torch.distributed.") for name in names):
        return _refuse_sharded(path, listed)
    return NeedsTrust(
        f"it is {'a whole pickled object' if whole else 'a pickle'} that names code: {listed}",
        where=str(path),
        hint="loading it would run that code; where you trust it, re-save the weights alone:\n"
        f"  loaded = torch.load({name!r}, map_location='cpu', weights_only=False)\n"
        f"  weights = {taken}\n"
        f"  torch.save(weights, {path.stem + '-weights.pt'!r})\n{_door(path)}",
    )


def refuse_protocol(path: Path, protocol: int) -> CheckpointRefused:
    """The refusal of a pickle that holds nothing unusual, but is written in an unusual way."""
    return NeedsTrust(
        f"it is pickled by protocol {protocol}, which is not read without running it",
        where=str(path),
        hint="where you trust it, save it again without pickle_protocol:\n"
        f"  loaded = torch.load({path.name!r}, map_location='cpu', weights_only=False)\n"
        f"  torch.save(loaded, {path.stem + '-again.pt'!r})\n{_door(path)}",
    )


def refuse_costly(path: Path) -> CheckpointRefused:
    """The refusal of a pickle that asks for far more than its bytes."""
    return NeedsTrust(
        "its pickle would take time or memory out of proportion to the file",
        where=str(path),
        hint="where you trust it, load it and torch.save(model.state_dict(), 'weights.pt')\n"
        + _door(path),
    )


def _door(path: Path) -> str:
    """The only way to files that are read by running what they hold, and its danger."""
    line = shlex.join(["flatmeter", "measure", str(path), "--trust-pickle"])
    return f"or let its code run, with all your rights:\n  {line}"


def _refuse_sharded(path: Path, listed: str) -> CheckpointRefused:
    return CheckpointRefused(
        f"it holds one process's part of a distributed network: {listed}",
        where=str(path),
        hint="save all of it from one process:\n"
        "  from torch.distributed.checkpoint import state_dict\n"
        "  whole = state_dict.StateDictOptions(full_state_dict=True, cpu_offload=True)\n"
        "  weights = state_dict.get_model_state_dict(model, options=whole)",
    )


def _is_text(head: bytes) -> bool:
    # The last character may be cut in the middle.
    return "\ufffd" not in head.decode("utf-8", errors="replace")[:-1]
