"""Every file in ``configs/`` is valid, and names measures, networks and data that there are."""

import subprocess
from pathlib import Path

import pytest

from flatmeter.config.layers import configure
from flatmeter.measures.registry import available

FOLDER = Path(__file__).parents[2] / "configs"
FILES = sorted(FOLDER.glob("*.yaml"))


def test_there_are_files():
    names = {path.stem for path in FILES}
    assert {"demo", "cifar10", "imagenet", "slurm"} <= names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_valid(path, tmp_path):
    settings = configure(files=[path], start=tmp_path).settings
    assert set(settings.measures) <= {"all", *available()}
    assert settings.data is None or not settings.data.startswith(".")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_networks_can_be_built(path, tmp_path):
    from flatmeter.model.registry import names

    model = configure(files=[path], start=tmp_path).settings.model
    assert model is None or any(model in known for known in names().values())


def test_job_gives_each_task_its_part(tmp_path):
    """The script, with Slurm's commands replaced by ones that say what they were told."""
    for name, body in {"srun": 'echo "$@"; exit 75', "scontrol": 'echo "scontrol $@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", FOLDER / "slurm.sh", *(f"c{i}" for i in range(10))],
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "SLURM_ARRAY_TASK_ID": "1",
            "SLURM_ARRAY_JOB_ID": "77",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 75
    assert done.stdout.splitlines() == [
        "flatmeter measure c1 c9 -c configs/slurm.yaml",
        "scontrol requeue 77_1",
    ]
