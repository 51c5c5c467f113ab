"""Jobs that are submitted: to processes here, and as far as sbatch; see tests/cluster for Slurm."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import time
from pathlib import Path

import pytest

from flatmeter.cli import task
from flatmeter.cli.resources import Resources
from flatmeter.cli.task import Task
from flatmeter.errors import ExitCode, UsageError

needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="submitit is not installed"
)
MEASURE = ("-o", "out", "-M", "gradient_norm")


@pytest.fixture
def run(checkpoint, make_checkpoint):
    """Four checkpoints in a folder."""
    for number in range(4):
        make_checkpoint(Path("run"), f"e{number}.pt", seed=number)
    return Path("run")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Commands of Slurm that take every job as number 77, and keep what they were given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {
        "srun": "exit 0",
        "sbatch": 'cp "${@: -1}" given.sh; echo Submitted batch job 77',
        "squeue": 'echo "$STATE"',
    }.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def finished(folder: Path, seconds: float) -> list[str]:
    """Names of the checkpoints that were measured within that time, sorted."""
    limit = time.monotonic() + seconds
    names: list[str] = []
    while time.monotonic() < limit and len(names) < 4:
        time.sleep(0.1)
        lines = [x for p in folder.glob("results*.jsonl") for x in p.read_text().splitlines()]
        names = sorted(json.loads(x)["checkpoint"] for x in lines if '"scope": "network"' in x)
    return names


@needs_submitit
def test_processes_here_measure_their_parts_of_the_list(process, run):
    child = process("submit", "run", *MEASURE, "--cluster", "local", "--tasks", 2, "--cpus", 1)
    # Its streams end with it, not with the tasks.
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert "2 tasks for 4 checkpoints, 2 each" in out
    assert "flatmeter measure - --measure=gradient_norm --out=out --shard=K/2 < out/jobs/" in out
    (job,) = Path("out/jobs").iterdir()
    listed = (job / "checkpoints.txt").read_text().splitlines()
    assert listed == [f"run/e{number}.pt" for number in range(4)]
    assert finished(Path("out"), 90) == listed
    parts = [json.loads(p.read_text())["part"] for p in Path("out").glob("run*.json")]
    assert sorted(part[:8] for part in parts) == ["part 1/2", "part 2/2"]
    # They end too: nothing of this test goes on after it.
    limit = time.monotonic() + 30
    while len(list(job.glob("*_result.pkl"))) < 2:
        assert time.monotonic() < limit
        time.sleep(0.1)


@needs_submitit
def test_a_job_of_slurm(flatmeter, run, slurm):
    options = ["--tasks", 3, "--time", "1h", "--partition", "p", "--mem", "16G", "--cpus", 4]
    Path("my.yaml").write_text("rtol: 0.1\n")
    code, out, err = flatmeter(
        "submit", "run", *MEASURE, "-c", "my.yaml", *options, "--sbatch", "account=us", "--ema"
    )
    assert (code, err) == (0, "")
    assert "job 77 of Slurm: 3 tasks for 4 checkpoints, 1 or 2 each" in out
    script = Path("given.sh").read_text()
    for option in (
        *("array=0-2%3", "time=60", "partition=p", "mem=16G", "cpus-per-task=4", "account=us"),
        *("gpus-per-node=1", "requeue", "signal=USR1@60", "job-name=flatmeter"),
    ):
        assert f"#SBATCH --{option}\n" in script
    assert " --ntasks=1 --cpus-per-task=4 " in script
    (job,) = Path("out/jobs").iterdir()
    from submitit.helpers import DelayedSubmission

    tasks = [DelayedSubmission.load(job / f"77_{k}_submitted.pkl").function for k in range(3)]
    assert [one.arguments[-1] for one in tasks] == ["--shard=1/3", "--shard=2/3", "--shard=3/3"]
    shared = ("--config=my.yaml", "--ema", "--measure=gradient_norm", "--out=out")
    assert set(tasks[0].arguments[2:-1]) == {*shared, "--max-time=3480s"}
    assert {one.listed for one in tasks} == {job.absolute() / "checkpoints.txt"}


@needs_submitit
def test_what_is_only_shown_is_not_submitted(flatmeter, run, slurm):
    code, out, err = flatmeter("submit", "run", *MEASURE, "--dry-run", "--device", "cpu")
    assert (code, err) == (0, "")
    assert "4 tasks for 4 checkpoints, 1 each" in out
    assert "#SBATCH --array=0-3%4\n#SBATCH --job-name" in out
    assert not Path("given.sh").exists()
    assert not Path("out/jobs").exists()


@needs_submitit
def test_what_slurm_refuses(flatmeter, run, slurm):
    (slurm / "sbatch").write_text('#!/bin/sh\necho "sbatch: error: no account" >&2; exit 1\n')
    code, out, err = flatmeter("submit", "run", *MEASURE)
    assert (code, out) == (1, "")
    assert err == "flatmeter: error: Slurm does not take the job: no account\n"
    assert not list(Path("out/jobs").iterdir())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-M", "gradient_norm"], "add -o DIR"),
        ([*MEASURE, "-M", "nonsense"], "nonsense"),
        ([*MEASURE, "--sort", "nonsense"], "there is no column 'nonsense'"),
        ([*MEASURE, "--rtol", "7"], "--rtol"),
        ([*MEASURE, "--time", "soon"], "--time: 'soon' is not a duration"),
        ([*MEASURE, "--cluster", "local", "--mem", "1G"], "--mem: this is for Slurm only"),
        ([*MEASURE, "--tasks", "0"], "--tasks"),
        ([*MEASURE, "nowhere.pt"], "nowhere.pt: there is no such file"),
        ([*MEASURE, "-c", "export.yaml"], "flatmeter merge out --export FILE"),
        ([*MEASURE, "-c", "shard.yaml"], "parts are dealt out by --tasks"),
    ],
)
def test_what_tasks_would_refuse_is_not_submitted(flatmeter, run, arguments, told):
    Path("export.yaml").write_text("export: [all.csv]\n")
    Path("shard.yaml").write_text("shard: 1/2\n")
    code, out, err = flatmeter("submit", "run", *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert not Path("out/jobs").exists()


@needs_submitit
def test_no_slurm_here(flatmeter, run, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, err = flatmeter("submit", "run", *MEASURE)
    assert code == 2
    assert "there is no sbatch here" in err
    assert "--cluster local" in err


def test_no_submitit(flatmeter, run, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, _, err = flatmeter("submit", "run", *MEASURE, "--cluster", "local")
    assert code == 2
    assert "pip install 'flatmeter[submit]'" in err


def test_a_task_stops_before_its_limit():
    assert Resources("slurm", seconds=3600).max_time == 3480
    assert Resources("slurm", seconds=60).max_time == 45
    assert Resources("slurm", seconds=61).minutes == 2
    assert Resources("local").max_time is None


@needs_submitit
@pytest.mark.parametrize(
    ("cluster", "state", "max_time", "again"),
    [
        ("slurm", "RUNNING", 60.0, True),
        ("slurm", "CANCELLED", 60.0, False),
        ("slurm", "COMPLETING", 60.0, False),
        ("local", "", 0.0, True),
        ("local", "", 60.0, False),
        ("local", "", None, False),
    ],
)
def test_what_was_stopped_comes_back_unless_somebody_cancelled_it(
    monkeypatch, tmp_path, slurm, cluster, state, max_time, again
):
    (tmp_path / "listed").write_text("a.pt\n")
    variables = {"SUBMITIT_EXECUTOR": cluster, "STATE": state, "SLURM_JOB_ID": "77"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("flatmeter.cli.main.run", lambda arguments: ExitCode.STOPPED)
    monkeypatch.setattr(task.sys, "argv", [])
    monkeypatch.setattr(task.sys, "stdin", None)
    raised = []
    before = signal.signal(signal.SIGUSR2, lambda *_: raised.append(True))
    try:
        one = Task(("measure", "-"), tmp_path / "listed", max_time)
        with pytest.raises(SystemExit, match="75"):
            one()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert raised == [True] * again
    assert one.checkpoint().function == one


def test_options_of_slurm_without_it():
    with pytest.raises(UsageError, match="for Slurm only"):
        Resources("local", partition="p")
