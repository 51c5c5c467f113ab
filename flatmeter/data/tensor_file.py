"""Data from ``.pt`` and ``.npz`` files; nothing in them is executed."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flatmeter.data.dataset import Dataset
from flatmeter.data.pairs import as_dataset, from_mapping
from flatmeter.errors import DataError

ENDINGS = (".pt", ".pth", ".npz")


def load_tensor_file(path: Path, *, samples: int | None = None, seed: int = 0) -> Dataset:
    """Inputs and targets from a file.

    Args:
        path: a ``.npz``, or a ``.pt`` that holds a mapping or ``(inputs, targets)``.
        samples: size of a seeded subset, ``None`` for all.
        seed: of that subset.

    Raises:
        DataError: no such file, or one that holds something else.
    """
    if not path.is_file():
        raise DataError("no such file", where=str(path), hint="check --data")
    value = _read_npz(path) if path.suffix == ".npz" else _read_pt(path)
    if not isinstance(value, (dict, tuple, list)):
        raise DataError(
            f"it holds {type(value).__name__}, not inputs and targets",
            where=str(path),
            hint="save {'inputs': x, 'targets': y} or (x, y)",
        )
    return as_dataset(value, name=str(path), samples=samples, seed=seed)


def _read_npz(path: Path) -> tuple[Any, Any]:
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
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"not a NumPy archive: {error}", where=str(path)) from error


def _read_pt(path: Path) -> Any:
    try:
        # Mapped into memory, a forged storage size would be believed.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:
        said = str(error).strip().partition("\n")[0] or "it ends too early"
        raise DataError(
            f"not a file of tensors: {said}",
            where=str(path),
            hint="save {'inputs': x, 'targets': y} by torch.save, both of them tensors",
        ) from error
