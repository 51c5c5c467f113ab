"""Checkpoints of a folder as they appear, each when its file is complete."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flatmeter import checkpoint
from flatmeter.checkpoint import checkpoints_in
from flatmeter.checkpoint.fingerprint import files_of
from flatmeter.checkpoint.refusals import NeedsTrust
from flatmeter.errors import CheckpointRefused, UsageError

PATIENCE = 10
"""Intervals for which a file that does not change may be unreadable before that is a result."""

Signature = tuple[tuple[int, int, int], ...]
"""Size, time and number of every file of a checkpoint."""


@dataclass
class _Seen:
    """A checkpoint as it looked.

    Args:
        signature: of its files.
        since: when it was seen to look like this, in seconds.
        taken: it was given out.
        told: it was said that it cannot be read yet.
    """

    signature: Signature
    since: float
    taken: bool = False
    told: bool = False


@dataclass
class Arrivals:
    """The checkpoints of a folder, in the order in which they are complete, then those to come.

    A file is complete when it has not changed for an interval and can be read. One that cannot is
    looked at again, ``PATIENCE`` intervals long, and then given out for what it is. One that
    changes is given out once more.

    Args:
        folder: that need not exist yet.
        interval: seconds between two looks.
        over: whether no more are to come; what is there by then is still given out.
        most: how many are given out.
        tell: given what a reader should know.
        waiting: called now and then while there is nothing to give out.
        clock, sleep: for tests.
    """

    folder: Path
    interval: float
    over: Callable[[], bool]
    most: int | None
    tell: Callable[[str], None]
    waiting: Callable[[], None]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    count: int = 0
    _given: int = 0
    _seen: dict[Path, _Seen] = field(default_factory=dict)
    _missing: bool = False

    def __iter__(self) -> Iterator[Path]:
        while True:
            # Asked before the look: what was there by then is not missed.
            over, before = self.over(), self._given
            self._look()
            for path in self._complete():
                seen = self._seen[path]
                if self.clock() - seen.since >= self.interval and self._readable(path, seen):
                    seen.taken = True
                    self.count, self._given = self.count + 1, self._given + 1
                    yield path
                if self.most is not None and self.count >= self.most:
                    return
            if self._given > before:
                continue  # what has come meanwhile may be complete already
            if over and all(seen.taken for seen in self._seen.values()):
                return
            self.waiting()
            self.sleep(self.interval)

    def changed(self, path: Path) -> bool:
        """Whether a checkpoint that was given out is another one by now, or gone."""
        return path in self._seen and self._seen[path].signature != signature(path)

    def take_back(self) -> None:
        """The last one does not count: it will be given out once more."""
        self.count -= 1

    def _look(self) -> None:
        """Note what is there now, and since when it looks like that."""
        found = {path: signature(path) for path in self._listed()}
        now = self.clock()
        for path, own in found.items():
            if own and (path not in self._seen or self._seen[path].signature != own):
                self._seen[path] = _Seen(own, now)
        for path in self._seen.keys() - found.keys():
            del self._seen[path]

    def _listed(self) -> list[Path]:
        if not self.folder.is_dir():
            if not self._missing:
                self.tell(f"{self.folder} is not there yet; waiting for it")
            self._missing = True
            return []
        try:
            return checkpoints_in(self.folder)
        except UsageError:
            return []  # there are none yet

    def _complete(self) -> list[Path]:
        """Those to be given out, that which changed first foremost."""
        waiting = [path for path, seen in self._seen.items() if not seen.taken]
        order = {path: place for place, path in enumerate(waiting)}
        return sorted(waiting, key=lambda path: (self._modified(path), order[path]))

    def _modified(self, path: Path) -> int:
        return max(time for _, time, _ in self._seen[path].signature)

    def _readable(self, path: Path, seen: _Seen) -> bool:
        try:
            checkpoint.read(path)
        except NeedsTrust:
            return True  # whole, and to be refused or trusted by the one who reads it
        except (CheckpointRefused, UsageError) as error:
            if self.clock() - seen.since >= PATIENCE * self.interval:
                return True
            if not seen.told:
                self.tell(f"{path} cannot be read yet, and is looked at again: {error.message}")
            seen.told = True
            return False
        # What was read may have been half of what is being written now.
        return signature(path) == seen.signature


def signature(path: Path) -> Signature:
    """How the files of a checkpoint look from outside; empty where there are none."""
    try:
        found = [file.stat() for file in files_of(path)]
    except OSError:
        return ()
    return tuple((one.st_size, one.st_mtime_ns, one.st_ino) for one in found)
