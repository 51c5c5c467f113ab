"""The jobs of ``configs/slurm`` as they are, on a real Slurm: killed, preempted, out of time."""

from __future__ import annotations

import math
import os
import subprocess
from pathlib import Path

import pytest
from killed import rows
from one_node import with_limit

pytestmark = pytest.mark.cluster
JOBS = Path(__file__).parents[2] / "configs" / "slurm"


@pytest.fixture
def undisturbed(commands, sweep, tmp_path):
    """What one process measures, by number of checkpoints; and the arguments."""

    def measure(count):
        arguments = sweep(count)
        folder = tmp_path / "undisturbed"
        subprocess.run(["flatmeter", "measure", *arguments, "-o", folder], check=True)
        return arguments, rows(folder)

    return measure


def submitted(slurm, *options: object, env: dict[str, str]) -> str:
    return slurm("sbatch", "--parsable", *options, env={**os.environ, **env}).strip()


def restarts(slurm, task: str) -> int:
    """How often a task that has ended was begun again."""
    shown = slurm("scontrol", "show", "job", "--oneliner", task).split()
    return int(next(word for word in shown if word.startswith("Restarts=")).partition("=")[2])


def test_an_array_of_20_tasks_of_which_two_are_killed_and_one_runs_out_of_time(
    slurm, undisturbed, tmp_path
):
    arguments, expected = undisturbed(40)
    assert len(expected) > 40 * 3
    killed, late, early = ("3", "11"), "6", "8"
    array = submitted(
        slurm,
        # Slurm looks twice a minute: a signal comes half a minute to a minute after the start.
        *("--array=0-19%3", "--time=1", "--signal=USR1@1", JOBS / "array.sh"),
        *(*arguments, "-o", "out"),
        env={"KILLED": " ".join(killed), "HELD": late, "EARLY": early, "BEGAN": str(tmp_path)},
    )
    assert slurm.waited(array, 480), slurm.states(array)
    found = rows(tmp_path / "out")
    assert 0 < len(expected.keys() - found.keys()) < len(expected) / 5
    said = Path(f"slurm-{array}_{late}.out").read_text()
    assert "stopped by SIGUSR1; what was finished is kept in out" in said
    assert restarts(slurm, f"{array}_{late}") > 0
    assert restarts(slurm, f"{array}_{early}") > 0

    for task in killed:
        assert "task 0: Killed" in Path(f"slurm-{array}_{task}.out").read_text()
        slurm("scontrol", "requeue", f"{array}_{task}")
    assert slurm.waited(array, 240), slurm.states(array)
    found = rows(tmp_path / "out")
    assert found == expected
    assert all(len(lines) == 1 for lines in found.values())


def test_a_job_of_several_gpus_preempts_an_array_of_low_priority(slurm, undisturbed, tmp_path):
    arguments, expected = undisturbed(2)
    array = submitted(
        slurm,
        *("--array=0-0", "--partition=low", JOBS / "array.sh", *arguments, "-o", "out"),
        env={"HELD": "0", "BEGAN": str(tmp_path)},
    )
    assert with_limit((tmp_path / "began-0").exists, 120), slurm.states(array)
    job = submitted(
        slurm, "--ntasks-per-node=2", JOBS / "gpus.sh", *arguments, "-o", "shared", env={}
    )
    assert slurm.waited(job, 240), slurm.states(job)
    shared = rows(tmp_path / "shared")
    assert shared.keys() == expected.keys()
    for name, (row,) in shared.items():
        assert row["key"] == expected[name][0]["key"]
        assert math.isclose(row["value"], expected[name][0]["value"], rel_tol=1e-4)
    assert '"processes": 2' in (tmp_path / "shared/run.json").read_text()

    assert slurm.waited(array, 240), slurm.states(array)
    assert "stopped by SIGTERM" in Path(f"slurm-{array}_0.out").read_text()
    assert restarts(slurm, f"{array}_0") > 0
    assert rows(tmp_path / "out") == expected
