"""From a file to named tensors, whatever the format; nothing in the file is ever executed."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from flatmeter.checkpoint.checkpoint import Checkpoint
from flatmeter.checkpoint.content import Content
from flatmeter.checkpoint.distributed_folder import read_distributed
from flatmeter.checkpoint.export_file import read_torch_export
from flatmeter.checkpoint.fingerprint import files_of, sha256
from flatmeter.checkpoint.formats import Format
from flatmeter.checkpoint.hugging_face_folder import read_hugging_face
from flatmeter.checkpoint.recognise import recognise
from flatmeter.checkpoint.refusals import NeedsTrust, refuse_format, refuse_unknown
from flatmeter.checkpoint.safetensors_file import read_safetensors
from flatmeter.checkpoint.tensors import plain_tensors
from flatmeter.checkpoint.torch_file import read_torch_legacy, read_torch_zip
from flatmeter.checkpoint.unpickle import CODE, read_trusted
from flatmeter.checkpoint.unwrap import averaged, unwrap
from flatmeter.checkpoint.words import read_words
from flatmeter.errors import CheckpointRefused, UsageError

READERS: Mapping[Format, Callable[[Path], Content]] = MappingProxyType(
    {
        Format.TORCH_ZIP: read_torch_zip,
        Format.TORCH_LEGACY: read_torch_legacy,
        Format.SAFETENSORS: read_safetensors,
        Format.TORCH_EXPORT: read_torch_export,
        Format.HUGGING_FACE: read_hugging_face,
        Format.DISTRIBUTED: read_distributed,
    }
)


def read(
    path: str | Path, *, key: str | None = None, ema: bool = False, trust_pickle: bool = False
) -> Checkpoint:
    """Read a checkpoint without running anything that it holds.

    Args:
        path: of the file.
        key: dotted path of the entry that holds the weights; by default known wrappers are
            looked through in their documented order.
        ema: take the averaged weights instead.
        trust_pickle: a file that cannot be read so has its code run, with all the rights of who
            runs this. What can be read as data still is.

    Raises:
        CheckpointRefused: the file is unsafe, broken or of a format that is not read.
        UsageError: there is no such file, no weights under ``key``, or none that are averaged.
    """
    path = Path(path)
    try:
        return _read(path, key, ema, trust_pickle)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise CheckpointRefused(
                "this is a link that leads to itself", where=str(path)
            ) from error
        raise _unreadable(path, error) from error


def readable_format(path: Path) -> Format:
    """The format of a file, one of :data:`READERS`.

    Raises:
        CheckpointRefused: it is of none of them; says what it is.
        OSError: it cannot be looked at.
    """
    found = recognise(path)
    if found is None:
        raise refuse_unknown(path)
    if found not in READERS:
        raise refuse_format(path, found)
    return found


def _read(path: Path, key: str | None, ema: bool, trust_pickle: bool) -> Checkpoint:
    found = recognise(path)
    if found is None or found not in CODE or not trust_pickle:
        found = readable_format(path)
    before = _state(path)
    digest = sha256(path)
    content = _content(path, found, trust_pickle)
    if before != _state(path):
        raise CheckpointRefused(
            "the file changed while it was read", where=str(path), hint="wait until it is written"
        )
    if ema:
        key = averaged(content.value, str(path))
    weights = unwrap(content.value, key, str(path))
    taken = (f"averaged weights taken from {weights.key!r}",) if ema else ()
    size = sum(file_size for _, _, file_size in before)
    tensors, dropped = plain_tensors(weights.value, size, str(path))
    return Checkpoint(
        path=path,
        format=found.value,
        tensors=tensors,
        metadata=read_words(content.value, content.stored, str(path), bare=not weights.key),
        sha256=digest,
        key=weights.key,
        notes=(*taken, *weights.notes, *dropped, *content.notes),
        ran=content.ran,
        module=content.modules.get(weights.key),
    )


def _content(path: Path, found: Format, trust_pickle: bool) -> Content:
    if found in READERS:
        try:
            return READERS[found](path)
        except NeedsTrust:
            if not trust_pickle:
                raise
    return read_trusted(path)


def _state(path: Path) -> list[tuple[str, int, int]]:
    """What tells that a file was changed, and its size in bytes; of every file of a folder."""
    found = [(file.name, file.stat()) for file in files_of(path)]
    return [(name, state.st_mtime_ns, state.st_size) for name, state in found]


def _unreadable(path: Path, error: OSError) -> UsageError:
    if error.errno != errno.ENOENT:
        return UsageError(f"cannot read it: {error.strerror or error}", where=str(path))
    if path.is_symlink():
        return UsageError("this is a link to a file that is not there", where=str(path))
    folder = path.parent
    there = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    close = difflib.get_close_matches(path.name, there, n=1)
    return UsageError(
        "no such file",
        where=str(path),
        hint=f"did you mean {folder / close[0]}?" if close else None,
    )
