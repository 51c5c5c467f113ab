"""What ``torch.save`` wrote, as a zip or in the format before it, read without running code."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from flatmeter.checkpoint.attributes import check_attributes
from flatmeter.checkpoint.content import Content
from flatmeter.checkpoint.formats import Format
from flatmeter.checkpoint.pickle_cost import TooCostly, check_cost
from flatmeter.checkpoint.pickle_names import PickleNames, pickle_names
from flatmeter.checkpoint.refusals import (
    refuse_costly,
    refuse_damaged,
    refuse_pickled,
    refuse_protocol,
)
from flatmeter.checkpoint.zip_directory import (
    UNREADABLE,
    BrokenZip,
    check_members,
    opened,
    read_member,
)

#: Admitted besides tensors and containers: a bag of values, in which training scripts keep flags.
INERT: list[Any] = [argparse.Namespace]
_SCANNED = 1 << 24
#: The latest that torch reads as data, and its usual one.
_PROTOCOL = 2
#: Before its object, a file in the old format holds a magic number, a version and system facts.
_LEGACY_PREAMBLE = 3


def read_torch_zip(path: Path, content: bytes | None = None) -> Content:
    """The object in a zip of ``torch.save``.

    Args:
        path: of the file.
        content: the part of it that is the zip, where that is not all of it.

    Raises:
        CheckpointRefused: it is damaged, names code, or claims more than it holds.
    """
    source = path if content is None else content
    try:
        check_members(source, path)
        with (
            opened(source) as file,
            zipfile.ZipFile(file) as archive,
            archive.open(_pickle_in(archive)) as stream,
        ):
            _check_cost(path, stream, 1)
    except (BrokenZip, *UNREADABLE) as error:
        raise refuse_damaged(path, error) from error
    return _load(path, source, lambda: _zip_names(path))


def read_torch_legacy(path: Path) -> Content:
    """The object in a file of ``torch.save`` before version 1.6; raises likewise."""
    with path.open("rb") as stream:
        # After its object stands the list of its storages.
        _check_cost(path, stream, _LEGACY_PREAMBLE + 2)
    return _load(path, path, lambda: _stream_names(path, _LEGACY_PREAMBLE))


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


def _pickle_in(archive: zipfile.ZipFile) -> str:
    """The member that torch reads: the one in the folder of the first member."""
    return archive.namelist()[0].partition("/")[0] + "/data.pkl"


def _check_cost(path: Path, stream: IO[bytes], pickles: int) -> None:
    try:
        check_cost(stream, path.stat().st_size, pickles=pickles)
    except TooCostly as error:
        raise refuse_costly(path) from error
    except Exception:
        # What is wrong with it, reading says, and as far as here it costs little.
        return


def _load(path: Path, source: Path | bytes, scan: Callable[[], PickleNames]) -> Content:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # An open file, since of a path torch looks at the name's ending; and not mapped into
            # memory, where a forged storage size would be believed.
            with (
                opened(source) as file,
                torch.serialization.safe_globals(INERT),
            ):
                value = torch.load(file, map_location="cpu", weights_only=True, mmap=False)
            check_attributes(value)
            return Content(value)
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError):
            names = scan()
            unusual = names.unusual or _not_admitted(error)
            if unusual:
                raise refuse_pickled(path, unusual, whole=names.whole) from error
            if names.protocol > _PROTOCOL:
                raise refuse_protocol(path, names.protocol) from error
        raise refuse_damaged(path, error) from error


def _not_admitted(error: pickle.UnpicklingError) -> tuple[str, ...]:
    """What torch refused to make, where that is a name like those of plain containers."""
    found = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
    return (found[1],) if found else ()
