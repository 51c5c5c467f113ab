"""Several processes that measure checkpoints side by side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flatmeter.checkpoint import read
from flatmeter.cli import pool
from flatmeter.cli.jobs import Crew, device_of, processes
from flatmeter.config.layers import configure
from flatmeter.config.schema import Settings
from flatmeter.errors import FlatmeterError, UsageError
from flatmeter.plan import Plan, choose
from flatmeter.watch import Watch

COST = ("seconds", "peak_bytes")

#: Kills its process where it measures the checkpoint that a file names, once.
DEADLY = """
import os, signal
from pathlib import Path

from flatmeter import Estimate, Measure, Measurement


class Deadly(Measure):
    name = "deadly"
    title = "A toy"
    reference = "a test"

    def compute(self, context):
        order = Path(os.environ["DEADLY"])
        theta = context.risk.theta.double()
        if order.exists() and float(theta[0]) == float(order.read_text()):
            order.unlink()
            print("about to die")
            os.kill(os.getpid(), signal.SIGKILL)
        return Measurement({"value": Estimate.of_exact(float(theta.square().sum()))})
"""


@pytest.mark.parametrize(
    ("jobs", "device", "checkpoints", "gpus", "count"),
    [
        ("auto", "auto", 9, 0, 1),
        ("auto", "auto", 9, 1, 1),
        ("auto", "auto", 9, 4, 4),
        ("auto", "cuda", 3, 4, 3),
        ("auto", "auto", 1, 4, 1),
        ("auto", "cuda:2", 9, 4, 1),
        ("auto", "cpu", 9, 4, 1),
        (3, "cpu", 9, 0, 3),
        (3, "cuda:1", 9, 4, 3),
        (8, "auto", 5, 4, 5),
        (2, "cpu", 0, 0, 1),
    ],
)
def test_how_many(jobs, device, checkpoints, gpus, count):
    assert processes(Settings(jobs=jobs, device=device), checkpoints, 1, gpus) == count


def test_not_where_processes_share_each_measurement():
    assert processes(Settings(), 9, 2, 4) == 1
    assert processes(Settings(jobs=1), 9, 2, 4) == 1
    with pytest.raises(UsageError, match="2 processes were started together"):
        processes(Settings(jobs=4), 9, 2, 4)


@pytest.mark.parametrize(
    ("device", "gpus", "devices"),
    [
        ("auto", 0, ["cpu", "cpu", "cpu"]),
        ("cpu", 2, ["cpu", "cpu", "cpu"]),
        ("auto", 2, ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda", 3, ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda:1", 2, ["cuda:1", "cuda:1", "cuda:1"]),
    ],
)
def test_each_has_its_device(device, gpus, devices):
    assert [device_of(device, number, gpus) for number in range(3)] == devices


def test_threads_are_divided():
    crew = Crew(configure({"jobs": 3}), False, count=3, gpus=0, threads=8, resumes=True)
    order = crew.order(1)
    assert (order.threads, order.neighbours, order.configuration.settings.device) == (2, 3, "cpu")


@pytest.mark.parametrize("jobs", ["0", "-1", "many"])
def test_no_such_number(flatmeter, checkpoint, jobs):
    code, _, err = flatmeter("measure", checkpoint, "--jobs", jobs)
    assert code == 2
    assert "--jobs" in err


def test_the_plan_says_how_many(flatmeter, checkpoint, make_checkpoint, tmp_path):
    make_checkpoint(tmp_path, "b.pt", seed=1)
    command = ("measure", "a.pt", "b.pt", "-M", "gradient_norm", "--dry-run", "--jobs", "5")
    code, out, _ = flatmeter(*command)
    assert code == 0
    assert out.startswith("2 processes, each with checkpoints of its own\n")


def rows(folder: Path) -> dict[tuple[str, ...], dict[str, object]]:
    found = {}
    for line in (folder / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        name = tuple(row[c] for c in ("checkpoint", "measure", "quantity", "scope"))
        assert name not in found
        found[name] = {k: v for k, v in row.items() if k not in COST}
    return found


def test_rows_are_those_of_one_process(flatmeter, checkpoint, make_checkpoint, tmp_path, toys):
    """Also where one file is broken, and two hold the same weights; the table is in order."""
    names = ["c.pt", "a.pt", "b.pt", "d.pt", "broken.pt"]
    for seed, name in enumerate(("b.pt", "c.pt")):
        make_checkpoint(tmp_path, name, seed=seed + 1)
    (tmp_path / "d.pt").write_bytes((tmp_path / "a.pt").read_bytes())
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    command = ["measure", *names, "-M", "gradient_norm", "-M", f"{toys}:Norm", "-f", "csv"]
    code, out, _ = flatmeter(*command, "-o", "one")
    several, shown, said = flatmeter(*command, "-o", "two", "--jobs", 2)
    assert several == code == 1
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    assert without_cost(shown) == without_cost(out)
    assert "broken.pt" in said
    assert json.loads((tmp_path / "two/run.json").read_text())["jobs"] == 2
    # What several have measured one need not measure again.
    code, _, err = flatmeter(*command, "-o", "two")
    assert "measured already: 8 of 8" in err


def without_cost(text: str) -> list[list[str]]:
    head, *lines = (line.split(",") for line in text.splitlines())
    kept = [i for i, name in enumerate(head) if name not in COST]
    return [[line[i] for i in kept] for line in (head, *lines)]


def test_a_process_that_dies_loses_one_checkpoint(
    flatmeter, checkpoint, make_checkpoint, tmp_path, toys, monkeypatch
):
    for seed in range(1, 4):
        make_checkpoint(tmp_path, f"{seed}.pt", seed=seed)
    (tmp_path / "deadly.py").write_text(DEADLY)
    first = next(iter(read(tmp_path / "2.pt").tensors.values())).flatten()[0]
    (tmp_path / "order").write_text(repr(float(first)))
    monkeypatch.setenv("DEADLY", str(tmp_path / "order"))
    command = ["measure", "1.pt", "2.pt", "3.pt", "-M", f"{toys}:Norm", "-M", "deadly.py:Deadly"]
    code, out, err = flatmeter(*command, "-o", "out", "--jobs", 2)
    assert code == 1
    assert "about to die" not in out
    assert "2.pt: the process measuring it was killed by signal 9" in err
    found = rows(tmp_path / "out")
    ends = {(c, m): row["status"] for (c, m, q, _), row in found.items() if q == "value"}
    assert ends == {
        (f"{n}.pt", m): "error" if (n, m) == (2, "deadly") else "ok"
        for n in (1, 2, 3)
        for m in ("norm", "deadly")
    }
    code, _, err = flatmeter(*command, "-o", "out")
    assert code == 0
    assert "measured already: 5 of 6 measurements" in err


def test_a_signal_ends_all(flatmeter, checkpoint, make_checkpoint, tmp_path, toys, monkeypatch):
    make_checkpoint(tmp_path, "b.pt", seed=1)
    began = tmp_path / "began"
    monkeypatch.setenv("SLOW_BEGAN", str(began))
    own = []

    def stop():
        wait_for(began.exists)
        own.extend(children())
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    measures = ["-M", f"{toys}:Norm", "-M", f"{toys}:Slow"]
    code, _, err = flatmeter("measure", "a.pt", "b.pt", *measures, "--jobs", 2, "-o", "out")
    thread.join()
    assert code == 75
    assert "SIGTERM; what was finished is kept in out" in err
    assert len(own) == 2
    assert not any(map(alive, own))
    assert {row["measure"] for row in rows(tmp_path / "out").values()} == {"norm"}


def test_none_outlives_the_first_process(checkpoint, tmp_path, toys, monkeypatch):
    """However that ends: what it held of the connection is closed."""
    began = tmp_path / "began"
    monkeypatch.setenv("SLOW_BEGAN", str(began))
    configuration = configure({"measures": [f"{toys}:Slow"]})
    crew = Crew(configuration, False, count=1, gpus=0, threads=1, resumes=False)
    one = pool._Process(0, crew.order(0))
    try:
        one.take(checkpoint)
        wait_for(began.exists)
        assert one.runs
        one.connection.close()
        wait_for(lambda: not one.runs)
    finally:
        one.end()


def test_processes_that_cannot_begin_end_the_run(tmp_path, monkeypatch):
    """Not every checkpoint is to be lost to a broken environment."""
    started = []

    def broken(connection, threads):
        started.append(subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]))
        return started[-1]

    monkeypatch.setattr(pool, "_start", broken)
    crew = Crew(configure({}), False, count=2, gpus=0, threads=2, resumes=False)
    paths = [tmp_path / f"{n}.pt" for n in range(9)]
    plan = Plan(measures=choose("gradient_norm"))
    events = pool.Pool(crew, plan, Watch()).sweep(paths)
    with pytest.raises(FlatmeterError, match=r"3 processes .* exit code 3"):
        list(events)
    assert len(started) in (3, 4)
    assert all(one.returncode is not None for one in started)


def wait_for(what, seconds=300):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children() -> list[int]:
    """Processes that this one has started to measure for it."""
    found = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(p) for p in found if b"cli.worker" in Path(f"/proc/{p}/cmdline").read_bytes()]


def alive(pid: int) -> bool:
    """Neither gone nor a zombie that nobody waits for."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
