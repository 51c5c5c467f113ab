"""One of several processes that measure checkpoints side by side; the first one tells it which.

Everything it finds it sends there, and asks there for what an earlier run has found. It ends with
the first process, however that ends.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatmeter.errors import ExitCode, FlatmeterError

if TYPE_CHECKING:
    import numpy as np

    from flatmeter.cli.jobs import Order
    from flatmeter.results.record import Row

QUIET = 0.2
"""Seconds between two words on what is being done."""


def main(descriptor: int) -> None:
    """Measure until the connection closes.

    Args:
        descriptor: of the connection to the first process.
    """
    connection = Connection(descriptor)
    try:
        order = connection.recv()
        Worker(connection, order).serve()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # Nobody is left to whom anything could be told.
        os._exit(ExitCode.STOPPED)


class Worker:
    """Measures the checkpoints that it is given.

    Args:
        connection: to the first process.
        order: what to do with them.
    """

    def __init__(self, connection: Connection, order: Order) -> None:
        self.connection, self.order = connection, order
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._spoke = 0.0

    def serve(self) -> None:
        """Measure one checkpoint after another, until the connection closes."""
        import torch

        from flatmeter.allocator import keep_freed_memory
        from flatmeter.cli.plan_of import loader_of, plan_of
        from flatmeter.ranks.group import Ranks, using
        from flatmeter.sweep import sweep
        from flatmeter.watch import Watch

        keep_freed_memory()
        torch.set_num_threads(self.order.threads)
        device = self.order.configuration.settings.device
        if device.startswith("cuda:"):
            # So that nothing of it, a network's own code included, takes the first GPU.
            torch.cuda.set_device(device)
        threading.Thread(target=self._listen, daemon=True).start()
        configuration, resumes = self.order.configuration, self.order.resumes
        try:
            plan = plan_of(configuration.settings, configuration.origins, lambda text: None)
            trusting = self.order.trust_pickle
            loader = loader_of(configuration, self._warn, trust_pickle=trusting, many=True)
        except FlatmeterError as error:
            self._send("failed", error)
            return
        watch = Watch(self._doing, noted=lambda text: self._send("note", text))
        known, saved = (self._known, self._saved) if resumes else (None, None)
        with using(Ranks(neighbours=self.order.neighbours)):
            self._send("ready", None)
            for _, event in sweep(self._given(), loader, plan, watch, known, saved):
                self._send("event", event)

    def _given(self) -> Iterator[Path]:
        while True:
            yield self._inbox.get()

    def _listen(self) -> None:
        """Take what comes, and end where nothing more can come: the first process is gone."""
        try:
            while True:
                self._inbox.put(self.connection.recv())
        except (EOFError, OSError):
            os._exit(ExitCode.STOPPED)

    def _send(self, kind: str, content: Any) -> None:
        self.connection.send((kind, content))

    def _doing(self, text: str) -> None:
        if time.monotonic() - self._spoke >= QUIET:
            self._spoke = time.monotonic()
            self._send("doing", text)

    def _warn(self, text: str) -> None:
        self._send("warning", text)

    def _known(self, key: str, headline: str) -> list[Row] | None:
        self._send("known", (key, headline))
        found: list[Row] | None = self._inbox.get()
        return found

    def _saved(self, lineage: str) -> dict[str, np.ndarray]:
        self._send("saved", lineage)
        found: dict[str, np.ndarray] = self._inbox.get()
        return found
