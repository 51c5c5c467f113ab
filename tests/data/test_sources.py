"""The grammar of data sources, and a person's own factories."""

from __future__ import annotations

import pytest
import torch

from flatmeter.data.sources import FORMS, load_data
from flatmeter.errors import DataError, FlatmeterError, UsageError

FACTORIES = """
import torch
from torch.utils.data import Dataset as TorchDataset
import flatmeter

X = torch.arange(30.0).view(10, 3)
Y = torch.arange(10) % 3


def pair():
    return X, Y


def mapping():
    return {"x": X, "y": Y}


def own():
    return flatmeter.Dataset(X, Y, "mine", classes=3)


class Lazy(TorchDataset):
    classes = ["a", "b", "c"]

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return X[i], int(Y[i])


lazy = Lazy()
tensors = (X, Y)


def needs(size):
    return X, Y


def fails():
    raise ValueError("no disk there")


def nothing():
    return None
"""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "own_data.py"
    path.write_text(FACTORIES)
    return lambda name: f"{path}:{name}"


@pytest.mark.parametrize("name", ["pair", "mapping", "own", "Lazy", "lazy", "tensors"])
def test_factories(spec, name):
    data = load_data(spec(name))
    assert torch.equal(data.inputs, torch.arange(30.0).view(10, 3))
    assert data.targets.tolist() == [i % 3 for i in range(10)]
    assert data.targets.dtype == torch.int64


@pytest.mark.parametrize("name", ["pair", "own", "Lazy"])
def test_factories_are_subsampled_alike(spec, name):
    data = load_data(spec(name), samples=4, seed=9)
    assert len(data) == 4
    assert data.fingerprint() == load_data(spec("mapping"), samples=4, seed=9).fingerprint()


def test_factory_in_a_module(spec, tmp_path, monkeypatch):
    spec("pair")
    monkeypatch.chdir(tmp_path)
    assert len(load_data("own_data:pair")) == 10


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("needs", "callable without arguments"),
        ("fails", "ValueError: no disk there"),
        ("nothing", "NoneType is not data"),
    ],
)
def test_factories_that_do_not_work(spec, name, said):
    with pytest.raises(DataError) as caught:
        load_data(spec(name))
    assert said in str(caught.value)


def test_code_that_is_not_there(spec, tmp_path):
    for missing in (spec("pear"), f"{tmp_path}/none.py:pair", "no_such_module_at_all:pair"):
        with pytest.raises(UsageError):
            load_data(missing)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("digit", "did you mean digits"),
        ("torchvison:CIFAR10@data", "did you mean torchvision"),
        ("image_folder@data", "did you mean imagefolder"),
        ("", "unknown data"),
        ("mnist.csv", "unknown data"),
        ("digits:valid", "no split"),
        ("imagefolder", "imagefolder@DIR"),
    ],
)
def test_unknown_sources(text, said):
    with pytest.raises(DataError) as caught:
        load_data(text)
    assert said in str(caught.value)


def test_a_folder_without_its_kind(tmp_path):
    with pytest.raises(FlatmeterError, match="imagefolder@"):
        load_data(str(tmp_path))


def test_every_form_has_a_line():
    assert len(FORMS) >= 7
    assert all(FORMS.values())
