"""A small trained-looking network in a checkpoint, toy measures, and the command as a process."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from flatmeter.checkpoint import save
from flatmeter.model.zoo import mlp

NET = """
from flatmeter.model.zoo import mlp

def build(hidden=5, norm="none"):
    return mlp(4, [hidden], 3, norm=norm)
"""

TOYS = '''
import os, time
from pathlib import Path

import flatmeter
from flatmeter import Estimate, Measure, MeasureSettings, Measurement, Part, Why


class Options(MeasureSettings):
    power: float = 2.0
    mode: str = "plain"


class Norm(Measure):
    name = "norm"
    title = "Norm of the weights"
    reference = "a test"
    quantities = ("value", "dim")
    Settings = Options

    def compute(self, context):
        theta = context.risk.theta.double()
        value = float(theta.abs().pow(self.settings.power).sum())
        context.progress("adding")
        return Measurement(
            {"value": Estimate.of_exact(value), "dim": Estimate.of_exact(len(theta))},
            parts=(Part("first", "size", Estimate.of_exact(1.0)),),
            notes=("a toy",),
        )


class _Toy(Measure):
    title = "A toy"
    reference = "a test"


class Unconverged(_Toy):
    name = "unconverged"

    def compute(self, context):
        estimate = Estimate(1.0, stderr=0.5, n=4, converged=False, why=Why.BUDGET)
        return Measurement({"value": estimate})


class Refusing(_Toy):
    name = "refusing"

    def compute(self, context):
        raise flatmeter.NotApplicable("it has no meaning here")


class Buggy(_Toy):
    name = "buggy"

    def compute(self, context):
        return {}["nothing"]


class Infinite(_Toy):
    name = "infinite"

    def compute(self, context):
        return Measurement({"value": Estimate(float("nan"))})


class Vandal(_Toy):
    name = "vandal"

    def compute(self, context):
        context.risk.module.linear0.weight.data.zero_()
        return Measurement({"value": Estimate.of_exact(0.0)})


class Hungry(_Toy):
    name = "hungry"

    def compute(self, context):
        import torch

        raise torch.OutOfMemoryError("there is never enough")


class Peckish(_Toy):
    name = "peckish"

    def compute(self, context):
        import torch

        if context.risk.batch_size > 4:
            raise torch.OutOfMemoryError("too much at once")
        return Measurement({"value": Estimate.of_exact(context.risk.batch_size)})


class Slow(_Toy):
    """Begins, says so in a file, and does not end by itself."""

    name = "slow"

    def compute(self, context):
        Path(os.environ["SLOW_BEGAN"]).touch()
        while True:
            time.sleep(0.01)
'''


@pytest.fixture(scope="session")
def toys(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("toys") / "toys.py"
    path.write_text(TOYS)
    return path


@pytest.fixture
def make_checkpoint():
    """Writes a checkpoint that says everything, its network and data beside it."""

    def make(folder: Path, name: str = "a.pt", *, seed: int = 0, bn: bool = False) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "net.py").write_text(NET)
        inputs = torch.randn(24, 4, generator=torch.Generator().manual_seed(7))
        np.savez(folder / "data.npz", inputs=inputs.numpy(), targets=np.arange(24) % 3)
        args = {"in_features": 4, "hidden": [5], "classes": 3, "norm": "batch" if bn else "none"}
        torch.manual_seed(seed)
        model = mlp(**args)
        data = f"{folder}/data.npz"
        return save(
            folder / name, model, name="zoo:mlp", args=args, data=data, loss="cross_entropy"
        )

    return make


@pytest.fixture
def checkpoint(tmp_path, monkeypatch, make_checkpoint) -> Path:
    """``a.pt`` in an otherwise empty working folder."""
    monkeypatch.chdir(tmp_path)
    return make_checkpoint(tmp_path).relative_to(tmp_path)


@pytest.fixture
def flatmeter():
    """Runs the command in this process: ``flatmeter("measure", …) -> (code, out, err)``."""
    from flatmeter.cli.main import run

    def call(*arguments, stdin=""):
        out, err = io.StringIO(), io.StringIO()
        before, sys.stdin = sys.stdin, io.StringIO(stdin)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = run([str(a) for a in arguments])
        finally:
            sys.stdin = before
        return code, out.getvalue(), err.getvalue()

    return call


@pytest.fixture
def process():
    """Starts the command as a process of its own; what still runs at the end is killed."""
    started = []

    def start(*arguments, env=None, stdout=subprocess.PIPE, **more) -> subprocess.Popen:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        command = [sys.executable, "-m", "flatmeter", *map(str, arguments)]
        started.append(
            subprocess.Popen(
                command,
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env=environment,
                **more,
            )
        )
        return started[-1]

    yield start
    for child in started:
        if child.poll() is None:
            child.kill()
        child.communicate()
