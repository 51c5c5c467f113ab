"""Every file in ``configs/`` is valid, and names measures, networks and data that there are."""

from pathlib import Path

import pytest

from flatmeter.config.layers import configure
from flatmeter.measures.registry import available

FOLDER = Path(__file__).parents[2] / "configs"
FILES = sorted(FOLDER.glob("*.yaml"))


def test_there_are_files():
    names = {path.stem for path in FILES}
    assert {"demo", "cifar10", "imagenet"} <= names


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
