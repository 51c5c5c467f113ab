"""The command as several processes: who speaks, how all end, what is kept."""

import json
import os
import signal
import socket
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
        context.risk.value()
        if current().rank == 1:
            os.kill(os.getpid(), 9)
        return super().compute(context)


class Endless(Loss):
    name = "endless"

    def compute(self, context):
        while True:
            context.risk.value()
            Path(os.environ["BEGAN"]).touch()
            time.sleep(0.01)
"""


@pytest.fixture
def start(process, checkpoint, tmp_path):
    """Starts two processes of the command as torchrun or srun do."""
    toys = tmp_path / "several_toys.py"
    toys.write_text(TOYS)
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = str(s.getsockname()[1])

    def torchrun(rank):
        return {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}

    def srun(rank):
        step = {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
        return {**step, "SLURM_PROCID": rank, "SLURM_STEP_NODELIST": "localhost"}

    def begin(launcher, *names):
        place = {"torchrun": torchrun, "srun": srun}[launcher]
        measures = [x for name in names for x in ("-M", f"{toys}:{name}")]
        common = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "BEGAN": str(tmp_path / "began")}
        return [
            process("measure", checkpoint, *measures, "-o", "out", env={**common, **place(rank)})
            for rank in "01"
        ]

    return begin


def ended(children):
    """Code, stdout and stderr of each."""
    told = [child.communicate(timeout=120) for child in children]
    return [(child.returncode, *texts) for child, texts in zip(children, told, strict=True)]


def kept():
    rows = [json.loads(x) for x in Path("out/results.jsonl").read_text().splitlines()]
    return [row["measure"] for row in rows]


def test_a_lost_process_and_how_to_go_on(start, tmp_path):
    (code, out, err), (lost, *silent) = ended(start("srun", "Loss", "Killed"))
    assert (code, lost) == (1, -signal.SIGKILL)
    assert "process 1 of 2 (counted from 0) was lost; what was finished is kept in out\n" in err
    assert err.count("flatmeter: error") == 1
    assert "Traceback" not in err
    assert "a.pt" in out
    assert silent == ["", ""]
    assert kept() == ["loss_again"]
    assert json.loads(Path("out/run.json").read_text())["processes"] == 2

    children = start("torchrun", "Loss", "Endless")
    limit = time.monotonic() + 60
    while not (tmp_path / "began").exists():
        assert time.monotonic() < limit
        time.sleep(0.05)
    # One is enough.
    os.kill(children[1].pid, signal.SIGTERM)
    (code, out, err), (other, *silent) = ended(children)
    assert (code, other) == (75, 75)
    assert "stopped by SIGTERM; what was finished is kept in out\nrun the same command" in err
    assert "Traceback" not in err
    assert "said by a measure" not in out
    assert silent == ["", ""]
    assert kept() == ["loss_again"]


def test_what_is_not_shared_is_done_once(process):
    place = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    children = [process("list", "models", env=place), process("measure", "--bogus", env=place)]
    assert ended(children) == [(0, "", ""), (2, "", "")]
