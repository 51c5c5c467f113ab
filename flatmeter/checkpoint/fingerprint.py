"""The identity of a checkpoint: the SHA-256 of its bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

_CHUNK = 1 << 20
#: Files of a folder that is one checkpoint; what else stands in it may change.
_PARTS = (".metadata", ".distcp", ".safetensors", ".bin", ".index.json", "config.json")


def files_of(path: Path) -> list[Path]:
    """The files that a checkpoint consists of: itself, or those of weights in its folder."""
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.iterdir() if p.name.endswith(_PARTS) and p.is_file())


def sha256(path: Path) -> str:
    """SHA-256 in hexadecimal of a file, or of the names and hashes of a folder's, as a stream."""
    digest = hashlib.sha256()
    if path.is_dir():
        for part in files_of(path):
            digest.update(f"{sha256(part)}  {part.name}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
