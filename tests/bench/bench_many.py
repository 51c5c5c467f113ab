"""Thousands of tiny checkpoints in one go: what each costs beside the measuring itself.

python tests/bench/bench_many.py [CHECKPOINTS] [--profile]

The overhead is everything that the rows' `seconds` do not count: reading and hashing the file, its
network, the preflight, loss and accuracy over the data, the error by rounding, appending with
fsync, log, table and exports. What of it measures other columns of the rows (loss, accuracy,
rounding) is told apart. The first checkpoint is left out: it imports half of PyTorch and times the
ways to compute products. Seconds are given by the clock and of a core; on a busy machine only those
of a core mean anything. The second run finds everything finished.
"""

from __future__ import annotations

import contextlib
import cProfile
import os
import pstats
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import torch

from flatmeter import execution, save, workbench
from flatmeter.cli import streams
from flatmeter.cli.main import run
from flatmeter.cli.session import Session
from flatmeter.model.zoo import mlp
from flatmeter.sweep import Left

EVERY = 500
MEASURES = ("gradient_norm", "hessian_trace")
ARGS = {"in_features": 64, "hidden": [8], "classes": 10}


def make(folder: Path, count: int) -> None:
    """Checkpoints of one architecture and different weights."""
    for number in range(count):
        torch.manual_seed(number)
        save(
            folder / f"e{number:05}.pt",
            mlp(**ARGS),
            name="zoo:mlp",
            args=ARGS,
            data="digits:train",
            loss="cross_entropy",
        )


class Clock:
    """Seconds by the clock and of a core, in all and within what is timed."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.inside: dict[str, list[float]] = {"measures": [0.0, 0.0], "columns": [0.0, 0.0]}
        self.began = time.perf_counter(), time.process_time()

    def timed(self, owner: object, name: str, what: str) -> object:
        """Time what a function takes, while the patch is entered."""
        function = getattr(owner, name)

        def timed(*arguments, **more):
            wall, core = time.perf_counter(), time.process_time()
            try:
                return function(*arguments, **more)
            finally:
                spent = self.inside[what]
                spent[0] += time.perf_counter() - wall
                spent[1] += time.process_time() - core

        return patch.object(owner, name, timed)

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Time measures, and loss, accuracy and rounding."""
        with (
            self.timed(execution, "_attempt", "measures"),
            self.timed(workbench, "evaluate", "columns"),
            self.timed(workbench.Workbench, "rounding", "columns"),
        ):
            yield

    def overhead(self) -> tuple[float, float]:
        """Seconds besides measures, by the clock and of a core."""
        wall, core = self.inside["measures"]
        return (
            time.perf_counter() - self.began[0] - wall,
            time.process_time() - self.began[1] - core,
        )


def marks(clock: Clock) -> object:
    """A line for each 500 checkpoints: overhead of each since the last line, and memory."""
    take, count, before = Session._take, 0, clock.overhead()

    def told(session, event):
        nonlocal count, before
        take(session, event)
        if isinstance(event, Left):
            count += 1
            if count == 1:
                clock.reset()
                before = clock.overhead()
            if count % EVERY == 0:
                now = clock.overhead()
                wall, core = ((b - a) / EVERY * 1e3 for a, b in zip(before, now, strict=True))
                print(
                    f"  {count:5}: {wall:6.2f} ms by the clock, {core:6.2f} ms of a core, {rss()}"
                )
                before = now

    return patch.object(Session, "_take", told)


def rss() -> str:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return f"{pages * os.sysconf('SC_PAGE_SIZE') / 2**20:.0f} MiB"


def measured(folder: Path, count: int, profile: cProfile.Profile | None) -> None:
    """One run over all checkpoints."""
    chosen = [word for name in MEASURES for word in ("-M", name)]
    command = ["measure", str(folder), "-o", str(folder.with_name("out")), "--allow-unconverged"]
    command += [*chosen, "-q", "--export", str(folder.with_name("table.csv"))]
    clock = Clock()
    with clock.measuring(), marks(clock):
        if profile is not None:
            profile.enable()
        # The table is rendered and thrown away; the lines of marks are not.
        with patch.object(streams, "_write", lambda stream, text: None):
            code = run(command)
        if profile is not None:
            profile.disable()
    (wall, core), own = clock.overhead(), clock.inside
    each = 1e3 / (count - 1)
    print(
        f"exit {code}; overhead of each of the others: {wall * each:.2f} ms by the clock, "
        f"{core * each:.2f} ms of a core, of which loss, accuracy and rounding "
        f"{own['columns'][1] * each:.2f}; measures: {own['measures'][1] * each:.2f} ms of a core; "
        f"{rss()}"
    )


def main(count: int, profiled: bool) -> None:
    """Print the overhead of a first run, and of one that finds everything finished."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "checkpoints"
        folder.mkdir()
        make(folder, count)
        for title in ("first run", "second run"):
            print(f"{title} over {count} checkpoints, {len(MEASURES)} measures; {rss()}")
            profile = cProfile.Profile() if profiled else None
            measured(folder, count, profile)
            if profile is not None:
                pstats.Stats(profile).sort_stats("cumulative").print_stats("flatmeter", 90)


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--profile"]
    main(int(words[0]) if words else 5000, "--profile" in sys.argv)
