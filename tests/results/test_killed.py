"""Runs that are killed, and disks that fill up: nothing is lost, doubled or torn."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from killed import Forks, rows, sweep_with_kills

from flatmeter.checkpoint import save
from flatmeter.model.zoo import mlp

#: Rows of layers too, and numbers that are kept in a file beside them.
TOYS = """
from flatmeter import Estimate, Measure, Measurement, Part


class One(Measure):
    name = "one"
    title = "A toy"
    reference = "a test"
    quantities = ("value", "second")
    effort = ()

    def compute(self, context):
        theta = context.risk.theta.double()
        sums = [Estimate.of_exact(float(theta[i::5].sum())) for i in range(5)]
        parts = tuple(Part(f"part{i}", "sum", each) for i, each in enumerate(sums))
        values = {name: Estimate.of_exact(float(theta.square().sum())) for name in self.quantities}
        return Measurement(values, parts=parts, state={"theta": theta.numpy()})


class Two(One):
    name = "two"


class Three(One):
    name = "three"
"""


@pytest.fixture(scope="module")
def forks():
    with Forks() as running:
        yield running


def make_sweep(folder: Path, count: int) -> list[object]:
    """Writes checkpoints and toys; the command that measures them."""
    folder.mkdir()
    args = {"in_features": 64, "hidden": [2], "classes": 10}
    for number in range(count):
        torch.manual_seed(number)
        path = folder / f"e{number}.pt"
        save(path, mlp(**args), name="zoo:mlp", args=args, data="digits", loss="cross_entropy")
    (folder / "toys.py").write_text(TOYS)
    toys = [flag for name in ("One", "Two", "Three") for flag in ("-M", f"{folder}/toys.py:{name}")]
    return ["measure", folder, "--samples", "20", *toys, "-q"]


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    return make_sweep(tmp_path_factory.mktemp("sweep") / "checkpoints", 2)


@pytest.fixture(scope="module")
def undisturbed(forks, command, tmp_path_factory):
    """The folder of a run that nothing happened to, and how long it took."""
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    began = time.monotonic()
    assert forks(*command, "-o", folder) == 0
    return folder, time.monotonic() - began


def assert_same(folder: Path, expected: Path) -> None:
    found = rows(folder)
    assert found == rows(expected)
    assert all(len(lines) == 1 for lines in found.values())
    names = {path.name for path in (expected / "state").glob("*.npz")}
    assert {path.name for path in (folder / "state").glob("*.npz")} == names
    assert names
    for name in names:
        with np.load(folder / "state" / name) as a, np.load(expected / "state" / name) as b:
            assert set(a) == set(b)
            assert all(np.array_equal(a[key], b[key]) for key in a)


def test_killed_at_every_step_of_writing(forks, command, undisturbed, tmp_path):
    """Steps are writes, of which half is done, syncs and renames: in turn, one further each run."""
    expected, _ = undisturbed
    step, folder = 1, tmp_path / "out"
    while (code := forks(*command, "-o", folder, step=step)) == -signal.SIGKILL:
        step += 1
    assert code == 0
    assert step > 3
    assert_same(folder, expected)


def test_no_space_at_every_step_of_writing(forks, command, undisturbed, tmp_path):
    """As above; only one write fails, after half of it."""
    expected, _ = undisturbed
    step, folder, said = 1, tmp_path / "out", tmp_path / "said"
    while forks(*command, "-o", folder, full=step, said=str(said)) == 1:
        assert "the disk is full" in said.read_text()
        step += 1
    assert said.read_text() == ""
    assert step > 3
    assert_same(folder, expected)


def test_killed_at_random_moments(forks, command, undisturbed, tmp_path):
    expected, seconds = undisturbed
    folder = tmp_path / "out"
    moments = sweep_with_kills(forks, command, folder, 5, seed=1, longest=1.2 * seconds)
    assert len(moments) == 5
    assert_same(folder, expected)


@pytest.mark.parametrize("size", [4000, 9000, 20000])
def test_files_that_may_not_grow(forks, command, undisturbed, tmp_path, size):
    expected, _ = undisturbed
    folder = tmp_path / "out"
    assert forks(*command, "-o", folder, size=size) == 1
    assert forks(*command, "-o", folder) == 0
    assert_same(folder, expected)


@pytest.mark.parametrize("kib", [12, 24, 48])
def test_a_disk_that_fills_up(forks, command, undisturbed, tmp_path, kib):
    """Before the first measurement, or between two of them."""
    expected, _ = undisturbed
    disk, said = tmp_path / "disk", tmp_path / "said"
    disk.mkdir()
    size = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "flatmeter-test", disk]
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    made = subprocess.run(size, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no small file system can be mounted here: {made.stderr.strip()}")
    sweep = (*command, "-o", disk / "out", "--export", disk / "all.csv")
    try:
        assert forks(*sweep, said=str(said)) == 1
        assert (
            "cannot write: the disk is full\nfree some space and run the same" in said.read_text()
        )
        assert "Traceback" not in said.read_text()
        assert rows(disk / "out").keys() < rows(expected).keys()
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        assert forks(*sweep, said=str(said)) == 0
        assert said.read_text() == ""
        assert_same(disk / "out", expected)
        assert not [path for path in disk.rglob("*") if path.name.endswith(".tmp")]
        exported = (disk / "all.csv").read_text().splitlines()[1:]
        assert len(exported) == sum(name[-1] == "network" for name in rows(expected))
    finally:
        subprocess.run(["umount", disk], check=True)
