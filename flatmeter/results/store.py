"""The results folder: what was finished survives a kill, a full disk and a second writer."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any
from zipfile import BadZipFile

from flatmeter.results.atomic import OutputError, told, write_whole
from flatmeter.results.record import NETWORK, Row

if TYPE_CHECKING:
    import numpy as np

_WRITERS = 1000


class Store:
    """A folder of results, open for one writer.

    A measurement is one group of lines of the same key, its headline last: a group without its
    headline was cut short and is measured again. Each writer has a file of its own
    (``results.jsonl``, then ``results-1.jsonl``, …), held by a lock that ends with the process;
    readers merge them.

    Args:
        folder: made where it does not exist.

    Raises:
        OutputError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with told(folder):
            (folder / "state").mkdir(parents=True, exist_ok=True)
            self._file, self._suffix = _claim(folder)
        try:
            with told(folder):
                _drop_torn_line(self._file)
            self._groups = read_groups(folder)
        except BaseException:
            self._file.close()
            raise

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
        write_whole(self.folder / f"run{self._suffix}.json", text.encode())

    def finished(self, key: str, headline: str) -> list[Row] | None:
        """The rows of a measurement that needs no repeating, or ``None``.

        Errors are repeated: what failed once (memory, a missing file) may work now.

        Args:
            key: of the measurement.
            headline: name of its first quantity, without which the group was cut short.
        """
        rows = self._groups.get(key)
        if rows is None or (rows[0].scope, rows[0].quantity) != (NETWORK, headline):
            return None
        return None if any(row.status == "error" for row in rows) else rows

    def append(
        self,
        rows: Sequence[Row],
        state: Mapping[str, np.ndarray] | None = None,
        lineage: str | None = None,
    ) -> None:
        """Add one measurement, and return when it is on the disk.

        Args:
            rows: headline first, all of one key.
            state: raw numbers to be kept beside them, by name.
            lineage: by which :meth:`state` finds them.

        Raises:
            OutputError: the disk is full, and so on; what was there before stays whole.
        """
        key = rows[0].key
        if state:
            write_whole(self.folder / "state" / f"{key}.npz", _npz(state))
            if lineage:
                write_whole(self.folder / "state" / f"{lineage}.key", key.encode())
        lines = "".join(_line(row) for row in reversed(rows)).encode()
        with told(self.folder):
            whole = os.fstat(self._file.fileno()).st_size
            try:
                _write_all(self._file, lines)
                os.fsync(self._file.fileno())
            except OSError:
                os.ftruncate(self._file.fileno(), whole)
                raise
        self._groups[key] = list(rows)

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
    """Every measurement of a results folder by its key, headline first.

    Where a key was measured more than once (``--force``), the latest of a file is taken.

    Raises:
        OutputError: the folder cannot be read, or a line in it is not a row.
    """
    groups: dict[str, list[Row]] = {}
    for path in sorted(folder.glob("results*.jsonl"), key=lambda p: (len(p.name), p.name)):
        with told(path):
            content = path.read_bytes()
        for group in _groups(_rows(content, path)):
            groups[group[0].key] = group
    return groups


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Neighbouring rows of one key, each quantity and scope once, in reverse."""
    group: list[Row] = []
    seen: set[tuple[str, str]] = set()
    for row in rows:
        name = (row.scope, row.quantity)
        if group and (row.key != group[0].key or name in seen):
            yield group[::-1]
            group, seen = [], set()
        group.append(row)
        seen.add(name)
    if group:
        yield group[::-1]


def _rows(content: bytes, path: Path) -> Iterable[Row]:
    """The rows of a file; a torn last line is left out."""
    lines = content.split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            yield Row.from_dict(json.loads(line))
        except (ValueError, TypeError) as error:
            raise OutputError(
                f"this line is not a row of results: {error}",
                where=f"{path}:{number}",
                hint="remove the line, or choose another folder",
            ) from error


def _line(row: Row) -> str:
    return json.dumps(row.to_dict(), allow_nan=False) + "\n"


def _npz(state: Mapping[str, np.ndarray]) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(state))  # type: ignore[arg-type]
    return buffer.getvalue()


def _claim(folder: Path) -> tuple[IO[bytes], str]:
    """The first results file that no other process holds, opened and locked."""
    for number in range(_WRITERS):
        suffix = f"-{number}" if number else ""
        file = (folder / f"results{suffix}.jsonl").open("ab", buffering=0)
        if _lock(file):
            return file, suffix
        file.close()
    raise OutputError(f"{_WRITERS} processes write to this folder already", where=str(folder))


def _write_all(file: IO[bytes], content: bytes) -> None:
    """An unbuffered write may take only a part: on a disk that is nearly full, say."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _lock(file: IO[bytes]) -> bool:
    """Whether the file is now ours; the lock ends with the process, however it ends."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _drop_torn_line(file: IO[bytes]) -> None:
    """Cut the file after its last whole line."""
    content = Path(file.name).read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.ftruncate(file.fileno(), whole)
