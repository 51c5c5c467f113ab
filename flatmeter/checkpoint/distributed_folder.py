"""What ``torch.distributed.checkpoint`` wrote: a folder with a pickled table and files of parts."""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flatmeter.checkpoint.content import Content
from flatmeter.checkpoint.fingerprint import files_of
from flatmeter.checkpoint.folder_file import folder_file
from flatmeter.checkpoint.pickle_cost import TooCostly, check_cost
from flatmeter.checkpoint.pickle_names import pickle_names
from flatmeter.checkpoint.refusals import refuse_damaged
from flatmeter.checkpoint.torch_file import read_torch_zip
from flatmeter.errors import CheckpointRefused

METADATA = ".metadata"
_ENTRIES = "state_dict_metadata"
_PARAM_GROUPS = "param_groups"
_SHOWN = 5
_LONGEST = 80


class _Record:
    """An object of the table, of which only its state is kept."""

    def __init__(self, *arguments: Any) -> None:
        self.state: Any = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Metadata(_Record):
    """The table itself."""


class _Stored(_Record):
    """A tensor's size and parts."""


#: All that a table may name, and what is made of it here: nothing of torch's own.
_ADMITTED: Mapping[str, Any] = {
    "torch.Size": tuple,
    "torch.device": _Record,
    "torch.serialization._get_layout": _Record,
    "collections.OrderedDict": dict,
    "pathlib.PosixPath": _Record,
    "pathlib.WindowsPath": _Record,
    "pathlib._local.PosixPath": _Record,
    "pathlib._local.WindowsPath": _Record,
    "torch.distributed.checkpoint.metadata.Metadata": _Metadata,
    "torch.distributed.checkpoint.metadata.TensorStorageMetadata": _Stored,
    "torch.distributed.checkpoint.metadata.BytesStorageMetadata": _Record,
    "torch.distributed.checkpoint.metadata.TensorProperties": _Record,
    "torch.distributed.checkpoint.metadata._MEM_FORMAT_ENCODING": _Record,
    "torch.distributed.checkpoint.metadata.ChunkStorageMetadata": _Record,
    "torch.distributed.checkpoint.metadata.MetadataIndex": _Record,
    "torch.distributed.checkpoint.metadata.StorageMeta": _Record,
    "torch.distributed.checkpoint.filesystem._StorageInfo": _Record,
}


class _Unpickler(pickle.Unpickler):
    """Admits the names of a table and the types of numbers, and refuses every other."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return full
        if full not in _ADMITTED:
            raise pickle.UnpicklingError(f"it names {full}")
        return _ADMITTED[full]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it names something outside")


def read_distributed(folder: Path) -> Content:
    """The tensors of the folder, put together from their parts.

    What else it holds is pickled, entry by entry; a note says which these are.

    ``torch.distributed.checkpoint`` itself would unpickle the table, which runs code.

    Raises:
        CheckpointRefused: the table names what it should not, or parts are missing or damaged.
    """
    try:
        table = _table(folder)
        size = sum(path.stat().st_size for path in files_of(folder))
        unread = [n for n, e in table[_ENTRIES].items() if not isinstance(e, _Stored)]
        value = _nested(_tensors(folder, table, size), unread, table.get("planner_data"))
        return Content(value, notes=_notes(unread))
    except (CheckpointRefused, OSError):
        raise
    except Exception as error:
        raise refuse_damaged(folder, error) from error


def _table(folder: Path) -> dict[str, Any]:
    content = folder_file(folder, METADATA).read_bytes()
    try:
        check_cost(io.BytesIO(content), len(content))
        table = _Unpickler(io.BytesIO(content)).load()
    except TooCostly as error:
        raise CheckpointRefused(
            "its table would unfold to far more than it holds", where=str(folder / METADATA)
        ) from error
    except pickle.UnpicklingError as error:
        strange = [name for name in pickle_names(content).every if name not in _ADMITTED]
        strange = [name for name in strange if not name.startswith("torch.")] or strange
        if strange:
            raise CheckpointRefused(
                f"its table names code: {', '.join(strange[:5])[:300]}",
                where=str(folder / METADATA),
                hint="reading it the usual way would run that code",
            ) from error
        raise
    if not isinstance(table, _Metadata):
        raise ValueError("the table is of an unknown kind")
    return dict(table.state)


def _tensors(folder: Path, table: Mapping[str, Any], size: int) -> dict[str, Tensor]:
    places: dict[str, list[tuple[tuple[int, ...], Any]]] = {}
    for index, info in table["storage_data"].items():
        said = index.state
        places.setdefault(said["fqn"], []).append((tuple(said.get("offset") or ()), info.state))
    found: dict[str, Tensor] = {}
    for name, entry in table[_ENTRIES].items():
        if isinstance(entry, _Stored):
            shape = _sizes(entry.state["size"])
            found[name] = _whole(folder, name, shape, places.get(name, []), size)
    return found


def _whole(folder: Path, name: str, shape: tuple[int, ...], places: list[Any], size: int) -> Tensor:
    """A tensor of which every number stands in exactly one part."""
    where = f"{folder}: {str(name)[:80]}"
    if math.prod(shape) > size:
        raise CheckpointRefused(
            f"it claims the shape {list(shape)[:10]}, more than the files hold", where=where
        )
    pieces = [(offset, _part(folder, info)) for offset, info in places]
    if len(pieces) == 1 and tuple(pieces[0][1].shape) == shape:
        return pieces[0][1]
    if not pieces or sum(piece.numel() for _, piece in pieces) != math.prod(shape):
        raise CheckpointRefused("parts of it are missing", where=where)
    whole = torch.empty(shape, dtype=pieces[0][1].dtype)
    filled = torch.zeros(shape, dtype=torch.bool)
    for offset, piece in pieces:
        inside = tuple(slice(o, o + n) for o, n in zip(offset, piece.shape, strict=True))
        whole[inside] = piece
        filled[inside] = True
    if not filled.all():
        raise CheckpointRefused("parts of it are missing", where=where)
    return whole


def _part(folder: Path, info: Mapping[str, Any]) -> Tensor:
    path = folder_file(folder, info["relative_path"])
    if info.get("transform_descriptors"):
        raise CheckpointRefused("its parts are compressed", where=str(path))
    offset, length = _sizes((info["offset"], info["length"]))
    if offset + length > path.stat().st_size:
        raise CheckpointRefused("the file is cut short", where=str(path))
    with path.open("rb") as file:
        file.seek(offset)
        content = read_torch_zip(path, file.read(length)).value
    if not isinstance(content, Tensor):
        raise CheckpointRefused(f"a part of it is {type(content).__name__}", where=str(path))
    return content.detach()


def _sizes(said: Any) -> tuple[int, ...]:
    if not all(type(n) is int and n >= 0 for n in said):
        raise ValueError("a size that is no number")
    return tuple(said)


def _notes(unread: Sequence[Any]) -> tuple[str, ...]:
    """Which entries are pickled; of an optimiser's many settings, that they are there."""
    texts = [str(name)[:_LONGEST] for name in unread]
    names = list(dict.fromkeys(re.sub(rf"(\b{_PARAM_GROUPS})\..*", r"\1", text) for text in texts))
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    said = f"not read, as they are pickled and no tensors: {', '.join(names[:_SHOWN])}{rest}"
    return (said,) if names else ()


def _nested(tensors: Mapping[str, Tensor], unread: Sequence[str], ways: Any) -> dict[str, Any]:
    """The tensors under the mappings that they were saved in, where the table says which."""
    known = ways if isinstance(ways, dict) else {}
    value: dict[str, Any] = {}
    for name, tensor in tensors.items():
        way = known.get(name, (name,))
        inside = _at(value, way[:-1])
        if way[-1] in inside:
            raise ValueError("two of its tensors have one name")
        inside[way[-1]] = tensor
    for way in (known.get(name, (name,)) for name in unread):
        if _PARAM_GROUPS in way:  # by which an optimiser's state is told from weights
            _at(value, way[: way.index(_PARAM_GROUPS)]).setdefault(_PARAM_GROUPS, {})
    return value


def _at(value: dict[str, Any], way: Sequence[Any]) -> dict[str, Any]:
    """The mapping at the end of a way, made where it is not there."""
    for step in way:
        value = value.setdefault(step, {})
        if not isinstance(value, dict):
            raise ValueError("two of its tensors have one name")
    return value
