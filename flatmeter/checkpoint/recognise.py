"""What a file or folder is, by its bytes and never by its name."""

from __future__ import annotations

import json
import os
import re
import stat
import struct
from pathlib import Path

from flatmeter.checkpoint.formats import Format
from flatmeter.checkpoint.zip_directory import BrokenZip, member_names

#: Enough for every magic number that is looked for; the tar one stands at 257.
_HEAD = 512
#: Most bytes of a safetensors header; the library's own limit.
_MAX_HEADER = 100_000_000
_MAX_CONFIG = 1_000_000

_MAGIC = (
    (bytes.fromhex("80028a0a6cfc9c46f9"), Format.TORCH_LEGACY),
    (b"\x89HDF\r\n\x1a\n", Format.HDF5),
    (b"\x93NUMPY", Format.NUMPY),
    (b"GGUF", Format.GGUF),
)
#: An ONNX model begins with its version (field 1), then its producer's name, domain or graph.
_ONNX = re.compile(rb"\x08[\x01-\x20](?:[\x12\x1a\x22][\x00-\x7f][\x20-\x7e]|\x3a)")
_PICKLE = re.compile(rb"\x80[\x02-\x05]")


def recognise(path: Path) -> Format | None:
    """The format of a file or folder.

    Args:
        path: that exists.

    Returns:
        The format, readable or not; ``None`` for what is no checkpoint of any known kind.

    Raises:
        OSError: it cannot be read.
    """
    if path.is_dir():
        return _folder(path)
    if not stat.S_ISREG(path.stat().st_mode):
        return None
    head = first_bytes(path)
    # Before every other mark, since the first bytes of a tar file may be anything.
    if head[257:262] == b"ustar":
        return Format.TORCH_TAR
    if head.startswith(b"PK\x03\x04"):
        return _zip(path)
    for magic, found in _MAGIC:
        if head.startswith(magic):
            return found
    if _is_safetensors(head):
        return Format.SAFETENSORS
    if _PICKLE.match(head):
        return Format.PICKLE
    return Format.ONNX if _ONNX.match(head) else None


def first_bytes(path: Path) -> bytes:
    """The beginning of a file: all that most formats are told by."""
    with path.open("rb") as file:
        return file.read(_HEAD)


def _zip(path: Path) -> Format | None:
    try:
        names = member_names(path)
    except BrokenZip:
        return Format.DAMAGED_ZIP
    # Members stand in one folder, which torch names after the file.
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner:
        return Format.TORCHSCRIPT
    if "archive_format" in inner and any(name.startswith("models/") for name in inner):
        return Format.TORCH_EXPORT
    if "data.pkl" in inner and ("version" in inner or ".data/version" in inner):
        return Format.TORCH_ZIP
    if "model.weights.h5" in names:
        return Format.KERAS
    return Format.NUMPY if names and all(name.endswith(".npy") for name in names) else None


def _is_safetensors(head: bytes) -> bool:
    """A plausible header length, then the beginning of a JSON object."""
    if len(head) < 10:
        return False
    length = struct.unpack_from("<Q", head)[0]
    return 2 <= length <= _MAX_HEADER and re.match(rb'\{\s*["}]', head[8:]) is not None


def _folder(path: Path) -> Format | None:
    names = set(os.listdir(path))
    if ".metadata" in names and any(name.endswith(".distcp") for name in names):
        return Format.DISTRIBUTED
    if "zero_to_fp32.py" in names or any(name.endswith("_model_states.pt") for name in names):
        return Format.DEEPSPEED
    if "adapter_config.json" in names:
        return Format.ADAPTER
    return Format.HUGGING_FACE if _is_hugging_face(path, names) else None


def _is_hugging_face(path: Path, names: set[str]) -> bool:
    """A configuration that says what kind of model it is, beside files of weights."""
    stems, endings = ("model", "pytorch_model"), (".safetensors", ".bin", ".index.json")
    weights = any(name.startswith(stems) and name.endswith(endings) for name in names)
    if "config.json" not in names or not weights:
        return False
    try:
        with (path / "config.json").open("rb") as file:
            config = json.loads(file.read(_MAX_CONFIG))
    except (ValueError, RecursionError):
        return False
    return isinstance(config, dict) and bool({"model_type", "architectures"} & config.keys())
