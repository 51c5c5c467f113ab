import pytest

from flatmeter.errors import UsageError
from flatmeter.words import names_code, settle, which_weights


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("model", "zoo:mlp", False),
        ("model", "mlp", False),
        ("model", "torchvision:resnet18", False),
        ("model", "timm:vit_tiny", False),
        ("model", "os:system", True),
        ("model", "zoo.py:mlp", True),
        ("model", "/tmp/net.py:build", True),
        ("data", "digits:train", False),
        ("data", "digits", False),
        ("data", "torchvision:CIFAR10:test@data", False),
        ("data", "imagefolder:64@data", False),
        ("data", "some/data.npz", False),
        ("data", "subprocess:run", True),
        ("data", "data.py:factory", True),
        ("loss", "cross_entropy", False),
        ("loss", {"name": "cross_entropy", "label_smoothing": 0.1}, False),
        ("loss", {"name": "os:system"}, True),
        ("loss", "pkg.mod:fn", True),
        ("model", None, False),
        ("model_args", {"hidden": "os:system"}, False),
    ],
)
def test_what_names_code(name, value, expected):
    assert names_code(name, value) is expected


def test_the_strongest_source_decides_each_field():
    words = settle([{"data": "digits"}, {"model": "zoo:mlp", "data": "x.npz"}, {}], own=1)
    assert (words["model"], words["data"], words["loss"]) == ("zoo:mlp", "digits", None)


def test_arguments_belong_to_their_model():
    own = {"model": "zoo:mlp", "model_args": {"hidden": [3], "classes": 5}}
    project = {"model": "zoo:cnn", "model_args": {"channels": [1]}}
    given = {"model_args": {"classes": 7}}
    assert settle([given, own, project], own=1)["model_args"] == {"hidden": [3], "classes": 7}
    other = {"model": "zoo:cnn"}
    assert settle([other, own, project], own=1)["model_args"] == {"channels": [1]}


def test_code_needs_another_voice():
    own = {"model": "net.py:build", "model_args": {"width": 3}, "loss": "mse"}
    alone = settle([{}, own, {}], own=1)
    assert alone["model"] is None
    assert alone["loss"] == "mse"
    agreed = settle([{}, own, {"model": "net.py:build"}], own=1)
    assert agreed["model"] == "net.py:build"
    assert agreed["model_args"] == {"width": 3}


def test_the_strongest_source_says_which_weights():
    assert which_weights([{}, {}], "a.pt") == (None, False)
    assert which_weights([{"ema": True}, {"key": "model"}], "a.pt") == (None, True)
    assert which_weights([{"key": "model"}, {"ema": True}], "a.pt") == ("model", False)
    assert which_weights([{"ema": False}, {"ema": True}], "a.pt") == (None, False)
    with pytest.raises(UsageError, match=r"key \(model\) and ema both"):
        which_weights([{"key": "model", "ema": True}], "a.pt")
