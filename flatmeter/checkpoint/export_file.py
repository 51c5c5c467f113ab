"""What ``torch.export.save`` wrote: its weights alone, raw bytes that a JSON member describes."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from flatmeter.checkpoint.content import Content
from flatmeter.checkpoint.refusals import refuse_damaged
from flatmeter.checkpoint.zip_directory import UNREADABLE, BrokenZip, check_members
from flatmeter.errors import CheckpointRefused

_CONFIG = "_weights_config.json"
_MAX_CONFIG = 1 << 24
_STRIDED = 7
#: Numbers of torch's serialised types (``torch._export.serde.schema.ScalarType``).
_DTYPES: Mapping[int, torch.dtype] = MappingProxyType(
    {
        1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64,
        6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
    }
)  # fmt: skip


def read_torch_export(path: Path) -> Content:
    """Parameters and buffers of a ``.pt2`` file; the program in it is not looked at.

    ``torch.export.load`` would unpickle what else the file holds.

    Raises:
        CheckpointRefused: it is damaged, holds several programs, or weights that are pickled.
    """
    try:
        check_members(path, path)
        with zipfile.ZipFile(path) as archive:
            return Content(_weights(archive, str(path)))
    except (BrokenZip, TypeError, RecursionError, *UNREADABLE) as error:
        raise refuse_damaged(path, error) from error


def _weights(archive: zipfile.ZipFile, where: str) -> dict[str, Tensor]:
    names = archive.namelist()
    root = names[0].partition("/")[0]
    folder = f"{root}/data/weights/"
    configs = [name for name in names if name.startswith(folder) and name.endswith(_CONFIG)]
    if len(configs) != 1:
        raise CheckpointRefused(
            f"it holds the weights of {len(configs)} programs, not of one", where=where
        )
    if archive.getinfo(configs[0]).file_size > _MAX_CONFIG:
        raise CheckpointRefused("the description of its weights is too long", where=where)
    if archive.read(f"{root}/byteorder").strip() != b"little":
        raise CheckpointRefused("its numbers are not little-endian", where=where)
    blobs: dict[str, bytearray] = {}
    return {
        name: _tensor(archive, folder, entry, blobs, f"{where}: {name[:80]}")
        for name, entry in json.loads(archive.read(configs[0]))["config"].items()
    }


def _tensor(
    archive: zipfile.ZipFile,
    folder: str,
    entry: Mapping[str, Any],
    blobs: dict[str, bytearray],
    where: str,
) -> Tensor:
    """One tensor; those of one blob share their memory, as tied weights do."""
    if entry["use_pickle"]:
        raise CheckpointRefused("it is pickled, as tensors of unusual classes are", where=where)
    meta = entry["tensor_meta"]
    if meta["layout"] != _STRIDED or meta["dtype"] not in _DTYPES:
        raise CheckpointRefused("it is sparse, quantised or complex", where=where)
    dtype = _DTYPES[meta["dtype"]]
    sizes, strides = _numbers(meta["sizes"]), _numbers(meta["strides"])
    (offset,) = _numbers([meta["storage_offset"]])
    if not math.prod(sizes):
        return torch.empty(sizes, dtype=dtype)
    blob = str(entry["path_name"])
    if blob not in blobs:
        blobs[blob] = bytearray(archive.read(folder + blob))
    flat = torch.frombuffer(blobs[blob], dtype=dtype)
    last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if last >= len(flat):
        raise ValueError(f"{where} is larger than its bytes")
    return flat.as_strided(sizes, strides, offset)


def _numbers(said: Any) -> list[int]:
    found = [entry["as_int"] for entry in said]
    if not all(type(number) is int and number >= 0 for number in found):
        raise ValueError("a size that is no number")
    return found
