"""What ``torch.save`` wrote, as a zip or in the format before it, read without running code."""

from __future__ import annotations

import argparse
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from flatmeter.checkpoint.content import Content
from flatmeter.checkpoint.formats import Format
from flatmeter.checkpoint.pickle_names import PickleNames, pickle_names
from flatmeter.checkpoint.refusals import refuse_damaged, refuse_pickled
from flatmeter.checkpoint.zip_directory import BrokenZip, check_members, read_member

#: Admitted besides tensors and containers: a bag of values, in which training scripts keep flags.
INERT: list[Any] = [argparse.Namespace]
_SCANNED = 1 << 24
#: Before its object, a file in the old format holds a magic number, a version and system facts.
_LEGACY_PREAMBLE = 3


def read_torch_zip(path: Path) -> Content:
    """The object in a zip of ``torch.save``.

    Raises:
        CheckpointRefused: it is damaged, names code, or claims more than it holds.
    """
    try:
        check_members(path)
    except BrokenZip as error:
        raise refuse_damaged(path, error) from error
    return _load(path, lambda: _zip_names(path))


def read_torch_legacy(path: Path) -> Content:
    """The object in a file of ``torch.save`` before version 1.6; raises likewise."""
    return _load(path, lambda: _stream_names(path, _LEGACY_PREAMBLE))


def pickled_names(path: Path, found: Format) -> PickleNames | None:
    """What the pickle in a file names; ``None`` for formats without one.

    Args:
        path: of the file, read in part.
        found: its format.
    """
    if found in (Format.TORCH_ZIP, Format.TORCHSCRIPT):
        return _zip_names(path)
    if found in (Format.TORCH_LEGACY, Format.PICKLE):
        return _stream_names(path, _LEGACY_PREAMBLE if found is Format.TORCH_LEGACY else 0)
    return None


def _zip_names(path: Path) -> PickleNames:
    return pickle_names(read_member(path, "/data.pkl", _SCANNED))


def _stream_names(path: Path, skip: int) -> PickleNames:
    with path.open("rb") as file:
        return pickle_names(file.read(_SCANNED), skip=skip)


def _load(path: Path, scan: Callable[[], PickleNames]) -> Content:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # An open file, since of a path torch looks at the name's ending; and not mapped into
            # memory, where a forged storage size would be believed.
            with path.open("rb") as file, torch.serialization.safe_globals(INERT):
                value = torch.load(file, map_location="cpu", weights_only=True, mmap=False)
            return Content(value)
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError):
            names = scan()
            if names.unusual:
                raise refuse_pickled(path, names.unusual, whole=names.whole) from error
        raise refuse_damaged(path, error) from error
