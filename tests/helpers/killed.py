"""Sweeps that are killed at chosen or random moments, and what is left of their results.

A process that has imported everything forks a child for each sweep, since starting anew takes
seconds. As a program it is that process: a line of JSON on stdin is one sweep, answered by how it
ended.
"""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

#: Columns that are not the same in every run.
COST = ("seconds", "peak_bytes", "gradient_equivalents")


class Forks:
    """The process that forks, as a context."""

    def __enter__(self) -> Forks:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self("--version") == 0  # it has imported everything now
        return self

    def __exit__(self, *error: object) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def __call__(self, *arguments: object, **how: object) -> int:
        """Exit code of ``flatmeter`` with these arguments; negative where a signal ended it.

        Args:
            arguments: of the command line.
            how: ``seconds`` until it is killed, or the number of the ``step`` of writing at which
                it kills itself or finds the disk ``full``, or the largest ``size`` of a file; a
                file for what is ``said``.
        """
        order = {"arguments": list(map(str, arguments)), **how}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


def rows(folder: Path) -> dict[tuple[str, ...], list[dict[str, object]]]:
    """Every row in the files of a folder, without its cost, by what it is about."""
    found: dict[tuple[str, ...], list[dict[str, object]]] = {}
    for path in sorted(folder.glob("results*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            name = tuple(row[c] for c in ("checkpoint", "measure", "quantity", "scope"))
            found.setdefault(name, []).append({k: v for k, v in row.items() if k not in COST})
    return found


def sweep_with_kills(
    forks: Forks, command: list[object], folder: Path, kills: int, seed: int, longest: float
) -> list[float]:
    """Run a command into a folder, kill it at random moments, then let it end.

    Where it ends before it is killed, the next sweep begins in an empty folder.

    Returns:
        After how many seconds it was killed.
    """
    generator, moments = random.Random(seed), []
    while len(moments) < kills:
        seconds = generator.uniform(0.0, longest)
        code = forks(*command, "-o", folder, seconds=seconds)
        if code == -signal.SIGKILL:
            moments.append(seconds)
        else:
            assert code == 0, code
            # Put aside what is complete, so that the next sweep has something to do.
            folder.rename(folder.with_name(f"{folder.name}-{len(moments)}-{time.monotonic_ns()}"))
    assert forks(*command, "-o", folder) == 0
    return moments


def _child(order: dict[str, object]) -> None:
    from flatmeter.cli.main import run

    os.setpgid(0, 0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    said = order.get("said")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for stream, target in enumerate((nowhere, nowhere, os.open(said, flags) if said else nowhere)):
        os.dup2(target, stream)
    if "size" in order:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["size"], resource.RLIM_INFINITY))
    if "step" in order:
        _at_step(order["step"], lambda: os.kill(os.getpid(), signal.SIGKILL))
    if "full" in order:
        _at_step(order["full"], _no_space)
    os._exit(run(order["arguments"]))


def _no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _at_step(step: int, end: Callable[[], None]) -> None:
    """End this process or its write at a step: at a write half of it is there already."""
    from flatmeter.results import store

    left = [step]
    write, sync, move = store._write_all, os.fsync, Path.replace

    def at(before=lambda: None):
        left[0] -= 1
        if left[0] == 0:
            before()
            end()

    def writing(file, content):
        at(lambda: file.write(content[: len(content) // 2]))
        write(file, content)

    def syncing(descriptor):
        at()
        sync(descriptor)

    def moving(path, target):
        at()
        return move(path, target)

    store._write_all, os.fsync, Path.replace = writing, syncing, moving


def _serve() -> None:
    # All that a sweep imports, that which PyTorch imports late among it.
    import torch._dynamo  # noqa: F401

    import flatmeter.cli.processes
    import flatmeter.cli.session  # noqa: F401

    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(order)
        print(os.waitstatus_to_exitcode(_ended(pid, order.get("seconds"))), flush=True)


def _ended(pid: int, seconds: float | None) -> int:
    """How a child ended, by itself or killed after some time."""
    if seconds is not None:
        limit = time.monotonic() + seconds
        while (left := limit - time.monotonic()) > 0:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return status
            time.sleep(min(left, 0.005))
        # Not yet waited for: the number is still its own.
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


if __name__ == "__main__":
    _serve()
