"""Data from ``.pt`` and ``.npz`` files; nothing in them is executed."""

from __future__ import annotations

import difflib
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from flatmeter.checkpoint.read import READERS, readable_format
from flatmeter.checkpoint.recognise import first_bytes
from flatmeter.data.dataset import Dataset
from flatmeter.data.pairs import as_dataset, from_mapping
from flatmeter.data.tokens import are_tokens
from flatmeter.errors import CheckpointRefused, DataError

ENDINGS = (".pt", ".pth", ".npz")


def load_tensor_file(path: Path, *, samples: int | None = None, seed: int = 0) -> Dataset:
    """Inputs and targets, or tokens, from a file.

    Args:
        path: a ``.npz``, or a ``.pt`` that holds a mapping, ``(inputs, targets)`` or tokens.
        samples: size of a seeded subset, ``None`` for all.
        seed: of that subset.

    Raises:
        DataError: no such file, or one that holds something else.
    """
    if not path.is_file():
        close = near_file(path)
        hint = f"did you mean {close}?" if close else "check --data"
        raise DataError("no such file", where=str(path), hint=hint)
    try:
        value = _read_npz(path) if path.suffix == ".npz" else _read_pt(path)
    except OSError as error:
        raise DataError(f"cannot read it: {error.strerror or error}", where=str(path)) from error
    if not isinstance(value, (dict, tuple, list, Dataset)) and not are_tokens(value):
        raise DataError(
            f"it holds {type(value).__name__}, not inputs and targets",
            where=str(path),
            hint="save {'inputs': x, 'targets': y} or (x, y); tokens alone are integers [n, T]",
        )
    return as_dataset(value, name=str(path), samples=samples, seed=seed)


def near_file(path: Path) -> Path | None:
    """The file of tensors beside ``path`` that is called most like it, by another ending first."""
    if not path.parent.is_dir():
        return None
    there = [entry.name for entry in path.parent.iterdir() if entry.suffix in ENDINGS]
    same = [name for name in there if Path(name).stem in (path.stem, path.name)]
    close = same or difflib.get_close_matches(path.name, there, n=1)
    return path.with_name(min(close)) if close else None


def _read_npz(path: Path) -> tuple[Any, Any] | Dataset:
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise DataError(
                "it is a single array, not an archive",
                where=str(path),
                hint="save both by numpy.savez(path, inputs=x, targets=y)",
            )
        with file:
            return from_mapping(file, str(path))
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise DataError(
            _broken(path, error),
            where=str(path),
            hint=f"copy it again, or write it by numpy.savez({path.name!r}, inputs=x, targets=y)",
        ) from error


def _broken(path: Path, error: Exception) -> str:
    """Why NumPy did not read a file."""
    if "Object arrays" in str(error):
        return "it holds Python objects, which are not read because that could run code"
    if not first_bytes(path).startswith(b"PK"):
        return "it is no NumPy archive"
    return "the archive is damaged" if zipfile.is_zipfile(path) else "the archive is cut short"


def _read_pt(path: Path) -> Any:
    """What a file holds, read by the rules of checkpoints, which run nothing of it."""
    try:
        return READERS[readable_format(path)](path).value
    except CheckpointRefused as error:
        raise DataError(
            error.message,
            where=str(path),
            hint="only plain tensors are read, and nothing in a file is run; save them by\n"
            f"  torch.save({{'inputs': x, 'targets': y}}, {path.with_suffix('.pt').name!r})\n"
            "or NumPy arrays by\n"
            f"  numpy.savez({path.with_suffix('.npz').name!r}, inputs=x, targets=y)",
        ) from error
