"""``flatmeter submit`` on a real Slurm: preempted, it comes back; cancelled, it does not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from killed import rows
from one_node import with_limit

pytestmark = pytest.mark.cluster


@pytest.fixture
def submit(slurm, commands, sweep, tmp_path):
    """Submits two tasks for four checkpoints, the first of which is held; the job's number."""
    pytest.importorskip("submitit")
    measured = [word for word in sweep(4) if word != "-q"]

    def run(*options):
        done = subprocess.run(
            ["flatmeter", "submit", *measured, "-o", "out", *options, "--device", "cpu"],
            env={**slurm.environment, **os.environ, "HELD": "0", "BEGAN": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        job = done.stdout.partition("job ")[2].partition(" ")[0]
        assert with_limit((tmp_path / "began-0").exists, 120), slurm.states(job)
        return job

    return run


def test_preempted_it_goes_on_where_it_stopped(slurm, submit, tmp_path):
    job = submit("--tasks", "2", "--partition", "low", "--time", "1h", "--cpus", "2")
    high = slurm("sbatch", "--parsable", "--exclusive", "--time=5", "--wrap", "true").strip()
    assert slurm.waited(high, 60), slurm.states(high)
    assert slurm.waited(job, 240), slurm.states(job)
    (log,) = Path("out/jobs").glob(f"*/{job}_0_0_log.out")
    assert "stopped by SIGTERM" in log.read_text()
    listed = log.parent.joinpath("checkpoints.txt").read_text().split()
    measures = ("-n", "50", "-M", "gradient_norm,hessian_trace", "-M", "toys.py:Held")
    command = ["flatmeter", "measure", *listed, *measures, "-o", "good"]
    subprocess.run(command, check=True, capture_output=True)
    found = rows(tmp_path / "out")
    assert found == rows(tmp_path / "good")
    assert all(len(lines) == 1 for lines in found.values())


def test_cancelled_it_does_not_come_back(slurm, submit):
    job = submit("--tasks", "2", "--time", "1h")
    slurm("scancel", job)
    assert slurm.waited(job, 60), slurm.states(job)
    shown = slurm("scontrol", "show", "job", "--oneliner", f"{job}_0")
    assert "JobState=CANCELLED" in shown
    assert "Restarts=0" in shown
