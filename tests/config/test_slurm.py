"""The jobs in ``configs/slurm``, with Slurm's commands replaced by ones that do the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flatmeter.checkpoint import save
from flatmeter.model.zoo import mlp
from flatmeter.results.store import read_groups

FOLDER = Path(__file__).parents[2] / "configs" / "slurm"
JOBS = sorted(FOLDER.glob("*.sh"))

#: A measure that waits for the signal when the second task takes it for the first time.
MEASURE = """
import os, time
from pathlib import Path

from flatmeter import Estimate, Measure, Measurement


class Interrupted(Measure):
    name = "interrupted"
    title = "A toy"
    reference = "a test"

    def compute(self, context):
        began = Path(os.environ["BEGAN"])
        if os.environ["SLURM_ARRAY_TASK_ID"] == "1" and not began.exists():
            began.touch()
            while True:
                time.sleep(0.01)
        return Measurement({"value": Estimate.of_exact(float(context.risk.theta.sum()))})
"""

#: Each task of ``--array=0-N``, and once more those that asked for it.
SBATCH = """#!/bin/bash
last=${1#--array=0-}; shift
export SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_COUNT=$((last + 1)) SLURM_ARRAY_TASK_MIN=0
for id in $(seq 0 "$last"); do
    SLURM_ARRAY_TASK_ID=$id bash "$@"; echo "$id $?" >> codes
done
while read -r job; do
    SLURM_ARRAY_TASK_ID=${job#77_} bash "$@"; echo "${job#77_} $?" >> codes
done < <(cat requeued)
"""

#: Sends the signal of the time limit once the measure has begun for the first time.
SRUN = """#!/bin/bash
[ "$1" = --ntasks=1 ] && shift
before=$([ -e "$BEGAN" ] && echo yes)
"$@" &
child=$!
while [ -z "$before" ] && kill -0 $child 2> /dev/null; do
    [ -e "$BEGAN" ] && kill -USR1 $child && break
    sleep 0.05
done
wait $child
"""


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Puts commands of these names and texts before all others."""

    def put(**texts):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return put


def test_there_are_jobs():
    assert [path.name for path in JOBS] == ["array.sh", "gpus.sh"]


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.stem)
def test_bash_reads_them(job):
    subprocess.run(["bash", "-n", job], check=True)
    options = [line for line in job.read_text().splitlines() if line.startswith("#SBATCH ")]
    assert {"#SBATCH --requeue", "#SBATCH --signal=USR1@120"} <= set(options)
    # What stands behind the first command is not read by sbatch.
    assert job.read_text().index("\nsrun ") > job.read_text().index(options[-1])


@pytest.mark.parametrize("code", [0, 1, 6, 137, 75, 138, 143])
def test_only_what_was_stopped_is_requeued(commands, code):
    requeued = code in (75, 128 + signal.SIGUSR1, 128 + signal.SIGTERM)
    commands(srun=f'#!/bin/sh\necho "$@"; exit {code}', scontrol='#!/bin/sh\necho "$@"')
    done = subprocess.run(
        ["bash", FOLDER / "gpus.sh", "a b.pt", "-o", "out"],
        env={**os.environ, "SLURM_JOB_ID": "5"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code
    expected = ["flatmeter measure --progress plain a b.pt -o out", *["requeue 5"] * requeued]
    assert done.stdout.splitlines() == expected


def test_an_array_measures_everything_although_a_task_is_stopped(commands, tmp_path):
    args = {"in_features": 64, "hidden": [2], "classes": 10}
    for number in range(3):
        torch.manual_seed(number)
        path = tmp_path / f"e{number}.pt"
        save(path, mlp(**args), name="zoo:mlp", args=args, data="digits", loss="cross_entropy")
    (tmp_path / "toy.py").write_text(MEASURE)
    commands(
        flatmeter=f'#!/bin/sh\nexec {sys.executable} -m flatmeter "$@"',
        srun=SRUN,
        sbatch=SBATCH,
        scontrol='#!/bin/sh\necho "$2" >> requeued',
    )
    arguments = [tmp_path, "-o", "out", "-n", "20", "-M", "toy.py:Interrupted", "-f", "csv"]
    done = subprocess.run(
        ["sbatch", "--array=0-1", FOLDER / "array.sh", *arguments],
        cwd=tmp_path,
        env={**os.environ, "BEGAN": str(tmp_path / "began"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert (tmp_path / "codes").read_text().splitlines() == ["0 0", "1 75", "1 0"], done.stderr
    assert (tmp_path / "requeued").read_text() == "77_1\n"
    assert f"part 2/2: 1 of 3 checkpoints, {tmp_path}/e1.pt" in done.stderr
    lines = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert sorted(line["checkpoint"] for line in lines) == [f"{tmp_path}/e{n}.pt" for n in range(3)]
    assert all(rows[0].status == "ok" for rows in read_groups(tmp_path / "out").values())
