"""Networks by name: every form, and a sentence for every mistake."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn

from flatmeter.errors import UsageError
from flatmeter.model.registry import build_model, names

OWN = """
from torch import nn


def build(width=3, *, depth=1):
    return nn.Sequential(*[nn.Linear(width, width) for _ in range(depth)])


class Net(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layer = nn.Linear(width, 2)


ready = nn.Linear(2, 2)
number = 5


def fails():
    raise RuntimeError("no such width")


def gives():
    return "text"


def greedy(**options):
    return nn.Linear(options["n"], 1)
"""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "own_net.py"
    path.write_text(OWN)
    return lambda name: f"{path}:{name}"


def refused(name, args=None) -> str:
    with pytest.raises(UsageError) as caught:
        build_model(name, args or {})
    return str(caught.value)


def test_zoo_by_both_names():
    plain, full = build_model("mlp", {"hidden": [4]}), build_model("zoo:mlp", {"hidden": [4]})
    assert str(plain) == str(full)


def test_torchvision():
    model = build_model("torchvision:resnet18", {"num_classes": 7})
    assert model.fc.out_features == 7
    assert type(model).__module__.startswith("torchvision.")


def test_function(spec):
    assert len(build_model(spec("build"), {"width": 2, "depth": 3})) == 3


def test_class(spec):
    assert build_model(spec("Net"), {"width": 4}).layer.in_features == 4


def test_any_keyword(spec):
    assert build_model(spec("greedy"), {"n": 4}).in_features == 4


def test_module_in_the_current_folder(spec, tmp_path, monkeypatch):
    spec("build")
    monkeypatch.chdir(tmp_path)
    assert isinstance(build_model("own_net:build", {}), nn.Sequential)


def test_a_network_that_exists_is_copied(spec, tmp_path, monkeypatch):
    spec("ready")
    monkeypatch.chdir(tmp_path)
    first, second = build_model("own_net:ready", {}), build_model("own_net:ready", {})
    first.weight.data.zero_()
    assert second.weight.abs().sum() > 0
    assert "takes no arguments" in refused("own_net:ready", {"width": 3})


@pytest.mark.parametrize("name", ["zoo:mlp", "torchvision:squeezenet1_0"])
def test_randomness_is_left_alone(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    build_model(name, {})
    assert torch.equal(torch.get_rng_state(), before)


def test_wrong_arguments_show_the_right_ones(spec):
    said = refused(spec("build"), {"widht": 3})
    assert "widht" in said
    assert "it takes: width=3, depth=1" in said


def test_missing_arguments_show_the_right_ones(spec):
    assert "it takes: width" in refused(spec("Net"))


def test_wrong_arguments_of_the_zoo():
    assert "in_features=64" in refused("zoo:mlp", {"layers": 3})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mpl", "did you mean mlp"),
        ("zoo:resnt", "did you mean zoo:resnet"),
        ("torchvision:resnet19", "torchvision:resnet1"),
        ("torchvison:resnet18", "did you mean torchvision"),
        ("", "unknown network"),
        ("hub:thing.with-dash", "unknown network"),
    ],
)
def test_unknown_names(name, said):
    assert said in refused(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("number", "it is int, not a network"),
        ("fails", "RuntimeError: no such width"),
        ("gives", "it gave str"),
        ("nothing", "has no 'nothing'"),
    ],
)
def test_factories_that_do_not_work(spec, name, said):
    assert said in refused(spec(name))


def test_code_that_fails_names_its_line(spec):
    assert "own_net.py:" in refused(spec("fails"))


def test_missing_file(tmp_path):
    assert "no such file" in refused(f"{tmp_path}/none.py:build")


@pytest.mark.parametrize("argument", ["weights", "pretrained", "weights_backbone"])
def test_no_weights_are_fetched(argument):
    assert "drop" in refused("torchvision:resnet18", {argument: "DEFAULT"})


def test_timm_where_it_is_not_installed():
    if importlib.util.find_spec("timm") is None:
        assert "pip install timm" in refused("timm:resnet18")


def test_names_can_be_built():
    found = names()
    assert found["zoo"] == ("zoo:mlp", "zoo:cnn", "zoo:resnet")
    assert "torchvision:resnet18" in found["torchvision"]
    assert not any("quantized" in name or "raft" in name for name in found["torchvision"])
    for name in found["zoo"]:
        assert isinstance(build_model(name, {}), nn.Module)
