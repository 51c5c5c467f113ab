"""A Slurm for the tests of this folder; they are skipped, with the reason, where none can run."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from one_node import CannotStart, Slurm

from flatmeter.checkpoint import save
from flatmeter.model.zoo import mlp

#: Waits in the tasks of an array that HELD names, when they come here for the first time, and kills
#: the process of those that KILLED names.
HELD = """
import os, signal, time
from pathlib import Path

from flatmeter import Estimate, Measure, Measurement


class Held(Measure):
    name = "held"
    title = "A toy"
    reference = "a test"

    def compute(self, context):
        task = os.environ.get("SLURM_ARRAY_TASK_ID")
        began = Path(os.environ.get("BEGAN", ".")) / f"began-{task}"
        first = not began.exists()
        if first and task in os.environ.get("KILLED", "").split():
            began.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if first and task in os.environ.get("HELD", "").split():
            began.touch()
            while True:
                time.sleep(0.01)
        return Measurement({"value": Estimate.of_exact(float(context.risk.theta.double().sum()))})
"""


#: Is ended by a signal before it has begun in the task of an array that EARLY names, once.
FLATMETER = """#!/bin/sh
if [ -n "$EARLY" ] && [ "$SLURM_ARRAY_TASK_ID" = "$EARLY" ] && [ ! -e "$BEGAN/early" ]; then
    touch "$BEGAN/early"
    kill -USR1 $$
fi
exec {python} -m flatmeter "$@"
"""


@pytest.fixture(scope="session")
def slurm():
    # The path of a socket has 108 characters at most, which pytest's own folders may exceed.
    try:
        with TemporaryDirectory() as name, Slurm(Path(name) / "slurm") as running:
            yield running
    except CannotStart as error:
        pytest.skip(f"no Slurm can run here: {error}")


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """The environment in which jobs find this flatmeter, with one thread."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "flatmeter").write_text(FLATMETER.format(python=sys.executable))
    (folder / "flatmeter").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sweep(tmp_path):
    """Writes checkpoints and a measure that can be held; arguments that measure them."""

    def make(count: int) -> list[str]:
        args = {"in_features": 64, "hidden": [2], "classes": 10}
        for number in range(count):
            torch.manual_seed(number)
            path = tmp_path / "checkpoints" / f"e{number}.pt"
            save(path, mlp(**args), name="zoo:mlp", args=args, data="digits", loss="cross_entropy")
        (tmp_path / "toys.py").write_text(HELD)
        measures = ["-M", "gradient_norm,hessian_trace", "-M", "toys.py:Held"]
        return ["checkpoints", "-n", "50", *measures, "-q"]

    return make
