"""The command as several processes: who speaks, how all end, what is kept."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOYS = """
import os, time
from pathlib import Path

from flatmeter import Estimate, Measure, Measurement
from flatmeter.ranks.group import current


class Loss(Measure):
    name = "loss_again"
    title = "A toy"
    reference = "a test"

    def compute(self, context):
        print("said by a measure")
        return Measurement({"value": Estimate.of_exact(context.risk.value())})


class Killed(Loss):
    name = "killed"

    def compute(self, context):
        before = context.risk.value()
        if current().rank == 1 and "KILLED" in os.environ:
            os.kill(os.getpid(), 9)
        return Measurement({"value": Estimate.of_exact(before + context.risk.value())})


class Endless(Loss):
    name = "endless"

    def compute(self, context):
        while True:
            context.risk.value()
            Path(os.environ["BEGAN"]).touch()
            time.sleep(0.01)
"""


@pytest.fixture
def toys(tmp_path):
    """Measures by the names of their classes, as flags."""
    path = tmp_path / "several_toys.py"
    path.write_text(TOYS)
    return lambda *names: [word for name in names for word in ("-M", f"{path}:{name}")]


@pytest.fixture
def start(process, checkpoint, toys, tmp_path):
    """Starts two processes of the command as srun does."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = str(s.getsockname()[1])
    step = {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "SLURM_STEP_NODELIST": "localhost"}
    common = {**step, **place, "BEGAN": str(tmp_path / "began")}

    def begin(*names):
        command = ("measure", checkpoint, *toys(*names), "-o", "out")
        return [process(*command, env={**common, "SLURM_PROCID": rank}) for rank in "01"]

    return begin


def ended(children):
    """Code, stdout and stderr of each."""
    told = [child.communicate(timeout=120) for child in children]
    return [(child.returncode, *texts) for child, texts in zip(children, told, strict=True)]


def kept():
    rows = [json.loads(x) for x in Path("out/results.jsonl").read_text().splitlines()]
    return {row["measure"]: row["value"] for row in rows}


def test_a_process_of_torchrun_is_killed_and_the_command_goes_on(checkpoint, toys, flatmeter):
    command = ("measure", str(checkpoint), *toys("Loss", "Killed"), "-o", "out")
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, "-m", "flatmeter", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", "KILLED": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    # Of what is said besides, a traceback too, torchrun is the author.
    assert done.returncode == 1
    lost = "process 1 of 2 (counted from 0) was lost; what was finished is kept in out\n"
    assert lost in done.stderr
    assert done.stderr.count("flatmeter: error") == 1
    assert "exitcode  : 1 " in done.stderr
    assert "exitcode  : -9 " in done.stderr
    assert "a.pt" in done.stdout
    assert done.stdout.count("said by a measure") == 1
    assert list(kept()) == ["loss_again"]
    assert json.loads(Path("out/run.json").read_text())["processes"] == 2

    code, _, err = flatmeter(*command)
    assert code == 0
    assert "measured already: 1 of 2 measurements" in err
    values = kept()
    assert list(values) == ["loss_again", "killed"]
    assert values["killed"] == pytest.approx(2 * values["loss_again"])


def test_a_signal_to_one_ends_both(start, tmp_path):
    children = start("Loss", "Endless")
    limit = time.monotonic() + 60
    while not (tmp_path / "began").exists():
        assert time.monotonic() < limit
        time.sleep(0.05)
    # One is enough.
    os.kill(children[1].pid, signal.SIGTERM)
    (code, _, err), (other, *silent) = ended(children)
    assert (code, other) == (75, 75)
    assert "stopped by SIGTERM; what was finished is kept in out\nrun the same command" in err
    assert "Traceback" not in err
    assert silent == ["", ""]
    assert list(kept()) == ["loss_again"]


def test_what_is_not_shared_is_done_once(process):
    place = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    children = [process("list", "models", env=place), process("measure", "--bogus", env=place)]
    assert ended(children) == [(0, "", ""), (2, "", "")]
