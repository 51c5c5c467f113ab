"""Processes that measure checkpoints side by side; this one keeps and shows what they find."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from flatmeter.cli.jobs import Crew, Order
from flatmeter.errors import FlatmeterError
from flatmeter.execution import Finished, Known, Saved
from flatmeter.plan import Plan
from flatmeter.sweep import Event, Left, Read, lost
from flatmeter.watch import Watch

_BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Meant for the first process, which ends the others; launchers and terminals send them to all."""

TRIES = 3
"""Processes that may end before they begin, one after another."""


class Pool:
    """Hands checkpoints out, each to the process that is free first.

    Args:
        crew: of processes.
        plan: of the run, for what is lost with a process.
        watch: told what is being done; raises when the run must stop.
    """

    def __init__(self, crew: Crew, plan: Plan, watch: Watch) -> None:
        self.crew, self.plan, self.watch = crew, plan, watch
        self._running: dict[int, _Process] = {}
        self._stillborn = 0

    def sweep(
        self, paths: Iterable[Path], known: Known | None = None, saved: Saved | None = None
    ) -> Iterator[tuple[Path, Event]]:
        """Measure checkpoints, each taken from ``paths`` when a process is free.

        What becomes of one comes in order; what becomes of several is mixed. A process that dies
        loses its checkpoint, and another takes its place.

        Args:
            paths: of the checkpoints.
            known: gives the rows of a key and headline that were measured before.
            saved: gives the state of a lineage, to go on from.

        Raises:
            Stopped: by the watch; the measures in flight are abandoned.
            FlatmeterError: a process cannot begin at all.
        """
        source = iter(paths)
        try:
            while self._feed(source):
                busy = {one.connection: one for one in self._busy()}
                for connection in wait(list(busy)):
                    yield from self._heard(busy[connection], known, saved)  # type: ignore[index]
        finally:
            self.close()

    def close(self) -> None:
        """End all processes, whatever they do."""
        for one in self._running.values():
            one.end()
        self._running.clear()

    def _busy(self) -> list[_Process]:
        return [one for one in self._running.values() if one.path is not None]

    def _feed(self, source: Iterator[Path]) -> bool:
        """Give every process that is free a checkpoint; whether any has one."""
        for number in range(self.crew.count):
            one = self._running.get(number)
            if one is not None and one.path is not None:
                continue
            path = next(source, None)
            if path is None:
                break
            if one is not None and not one.runs:
                one.end()
                one = None
            if one is None:
                one = self._running[number] = _Process(number, self.crew.order(number))
            one.take(path)
        return bool(self._busy())

    def _heard(
        self, one: _Process, known: Known | None, saved: Saved | None
    ) -> Iterator[tuple[Path, Event]]:
        assert one.path is not None
        try:
            kind, content = one.connection.recv()
            if kind == "known":
                one.connection.send(known(*content) if known else None)
            elif kind == "saved":
                one.connection.send(saved(content) if saved else {})
        except (EOFError, OSError):
            yield from self._died(one)
            return
        if kind == "event":
            one.heard(content)
            yield one.path, content
            if isinstance(content, Left):
                one.path = None
        elif kind == "doing":
            others = len(self._busy()) - 1
            self.watch(f"{content} (and {others} more)" if others else content)
        elif kind == "note":
            self.watch.note(content)
        elif kind == "failed":
            raise content
        elif kind == "ready":
            one.ready, self._stillborn = True, 0

    def _died(self, one: _Process) -> Iterator[tuple[Path, Event]]:
        """The checkpoint in flight is lost with its process."""
        del self._running[one.number]
        how, path = one.ended(), one.path
        assert path is not None
        self.watch.check()  # a signal that ended it may have been meant for all
        self._stillborn += not one.ready
        if self._stillborn == TRIES:
            raise FlatmeterError(
                f"{TRIES} processes of --jobs ended before they could begin; the last one {how}",
                hint="what they said stands above, if anything; --jobs 1 measures in this process",
            )
        error = FlatmeterError(
            f"the process measuring it {how}",
            hint="measure again: the same command repeats what failed; where memory ran out, with "
            "fewer --jobs",
        )
        yield path, lost(path, self.plan, error, one.read, one.done)
        yield path, Left()


class _Process:
    """One process, as the first one sees it."""

    def __init__(self, number: int, order: Order) -> None:
        self.number = number
        self.connection, theirs = Pipe()
        self._child = _start(theirs, order.threads)
        theirs.close()
        self.ready = False
        self.path: Path | None = None
        self.read: Read | None = None
        self.done: set[str] = set()
        self._tell(order)

    @property
    def runs(self) -> bool:
        """It has not ended."""
        return self._child.poll() is None

    def take(self, path: Path) -> None:
        """Measure a checkpoint next."""
        self.path, self.read, self.done = path, None, set()
        self._tell(path)

    def heard(self, event: Event) -> None:
        """Remember what is known of the checkpoint in flight."""
        if isinstance(event, Read):
            self.read = event
        elif isinstance(event, Finished):
            self.done.add(event.rows[0].measure)

    def ended(self) -> str:
        """How it ended by itself, in words."""
        self.connection.close()
        code = self._child.wait()
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def end(self) -> None:
        """Kill it: it has nothing that could be lost."""
        self._child.kill()
        self._child.wait()
        self.connection.close()

    def _tell(self, content: Any) -> None:
        try:
            self.connection.send(content)
        except OSError:
            return  # it has died, which is noticed when it is listened to


def _start(connection: Connection, threads: int) -> subprocess.Popen[bytes]:
    """A fresh Python: a fork would inherit PyTorch's threads and locks."""
    descriptor = connection.fileno()
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from flatmeter.cli.worker import main; main({descriptor})"
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    try:
        return subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.DEVNULL,
            # What a network prints is not to stand among the results.
            stdout=subprocess.DEVNULL if sys.__stderr__ is None else sys.__stderr__,
            pass_fds=[descriptor],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
