"""The results folder: what was finished survives a kill, a full disk and a second writer."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any
from zipfile import BadZipFile

from flatmeter.renamed import sweep_up
from flatmeter.results.agreement import agree
from flatmeter.results.atomic import told, write_whole
from flatmeter.results.reading import (
    COMPLETE,
    Shelved,
    Stored,
    each_measurement,
    identity,
    last_whole,
    read_folder,
    standing,
)
from flatmeter.results.record import NETWORK, Row
from flatmeter.results.writers import claim

if TYPE_CHECKING:
    import numpy as np


class Store:
    """A folder of results, open for one writer.

    A measurement is one group of lines of the same key, its headline last: a group without its
    headline was cut short and is measured again. Each writer has a file of its own
    (``results.jsonl``, then ``results-1.jsonl``, …); readers merge them.

    Args:
        folder: made where it does not exist.

    Raises:
        OutputError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with told(folder):
            (folder / "state").mkdir(parents=True, exist_ok=True)
            self._file, self._suffix = claim(folder)
        #: Of files that are being written: whoever has the file of rows next finds what is left.
        self._mark = f"results{self._suffix}"
        try:
            with told(folder):
                _drop_torn_tail(self._file)
                for room in (folder, folder / "state"):
                    sweep_up(room, self._mark)
            self._read()
        except BaseException:
            self._file.close()
            raise

    def _read(self) -> None:
        """What is there, without its rows."""
        found: list[Shelved] = []
        #: How many rows of earlier runs were found, and of how many measurements.
        self.found_rows = 0
        self._names: set[tuple[str, str]] = set()
        for one in each_measurement(self.folder):
            self.found_rows += len(one.rows)
            self._names.add((one.head.key, one.checkpoint))
            found.append(one.shelved())
        self._standing = standing(found)
        self.found = len(self._standing)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another writer have the file."""
        self._file.close()

    def describe(self, run: Mapping[str, Any]) -> None:
        """Write ``run.json``: settings, versions, device, command line, seed, data."""
        text = json.dumps(run, indent=2, default=str) + "\n"
        write_whole(self.folder / f"run{self._suffix}.json", text.encode(), self._mark)

    def finished(self, key: str, headline: str) -> list[Row] | None:
        """The rows of a measurement that needs no repeating, or ``None``.

        Errors are repeated: what failed once (memory, a missing file) may work now. So is what
        two writers found different numbers for.

        Args:
            key: of the measurement.
            headline: name of its first quantity, without which the group was cut short.
        """
        there = self._standing.get(key, ())
        if any(one.failed for one in there[:1]):
            return None
        rows = [one.stored().rows for one in there]
        if not rows or any(not agree(rows[0], others) for others in rows[1:]):
            return None
        head = rows[0][0]
        if (head.scope, head.quantity) != (NETWORK, headline):
            return None
        return rows[0]

    def latest(self, row: Row) -> Stored | None:
        """What stands there of the measurement that a row belongs to."""
        return next((one.stored() for one in self._standing.get(identity(row), ())), None)

    def named(self, row: Row) -> bool:
        """Whether a measurement stands there under the checkpoint's name too."""
        return (row.key, row.checkpoint) in self._names

    def keep(self, rows: Sequence[Row]) -> None:
        """Note that a finished measurement is that of another checkpoint too, of equal weights."""
        if not self.named(rows[0]):
            self.copy([rows])

    def append(
        self,
        rows: Sequence[Row],
        state: Mapping[str, np.ndarray] | None = None,
        lineage: str | None = None,
    ) -> None:
        """Add one measurement, and return when it is on the disk.

        It replaces what stands there of the same key.

        Args:
            rows: headline first, all of one key.
            state: raw numbers to be kept beside them, by name.
            lineage: by which :meth:`state` finds them.

        Raises:
            OutputError: the disk is full, and so on; what was there before stays whole.
        """
        key = rows[0].key
        if state:
            write_whole(self.folder / "state" / f"{key}.npz", _npz(state), self._mark)
            if lineage:
                named = self.folder / "state" / f"{lineage}.key"
                write_whole(named, key.encode(), self._mark)
        before = self._standing.get(identity(rows[0]), [])
        revision = max((one.revision for one in before), default=-1)
        if not before or not all(one.failed for one in before):
            revision += 1
        self.copy([[replace(row, revision=revision) for row in rows]])

    def copy(self, groups: Sequence[Sequence[Row]]) -> None:
        """Add measurements as they are, and return when they are on the disk.

        Args:
            groups: rows of each, headline first.

        Raises:
            OutputError: the disk is full, and so on; what was there before stays whole.
        """
        with told(self.folder):
            whole = os.fstat(self._file.fileno()).st_size
            encoded = [_encoded(rows) for rows in groups]
            try:
                _write_all(self._file, b"".join(encoded))
                os.fsync(self._file.fileno())
            except OSError:
                os.ftruncate(self._file.fileno(), whole)
                raise
        file = Path(self._file.name)
        for rows, lines in zip(groups, encoded, strict=True):
            one = Stored(list(rows), file, whole, whole := whole + len(lines))
            self._standing[one.identity] = [one.shelved()]
            self._names.add((one.head.key, one.checkpoint))

    def state(self, lineage: str) -> dict[str, np.ndarray]:
        """Raw numbers of the latest measurement of a lineage; none where they cannot be read."""
        import numpy as np

        try:
            key = (self.folder / "state" / f"{lineage}.key").read_text()
            with np.load(self.folder / "state" / f"{key}.npz") as arrays:
                return dict(arrays)
        except (OSError, ValueError, EOFError, BadZipFile):
            return {}

    def log(self, text: str) -> None:
        """Add a stamped paragraph to ``log.txt``."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with told(self.folder), (self.folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{stamp} {text.rstrip()}\n")


def read_groups(folder: Path) -> dict[str, list[Row]]:
    """The measurements that stand in a results folder, headline first, by their key.

    Raises:
        OutputError: the folder cannot be read, or a line in it is not a row.
    """
    found = standing(read_folder(folder).measurements)
    return {name: group[0].rows for name, group in found.items()}


def _encoded(rows: Sequence[Row]) -> bytes:
    """The lines of one measurement; the headline, which comes last, counts them."""
    lines = [row.to_dict() for row in reversed(rows)]
    lines[-1][COMPLETE] = len(rows)
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()


def _npz(state: Mapping[str, np.ndarray]) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(state))  # type: ignore[arg-type]
    return buffer.getvalue()


def _write_all(file: IO[bytes], content: bytes) -> None:
    """An unbuffered write may take only a part: on a disk that is nearly full, say."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _drop_torn_tail(file: IO[bytes]) -> None:
    """Cut the file after its last whole measurement, so that no row of it stands there twice."""
    content = Path(file.name).read_bytes()
    whole = last_whole(content)
    if whole < len(content):
        os.ftruncate(file.fileno(), whole)
