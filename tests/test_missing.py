from pathlib import Path

import pytest
import torch

from flatmeter.checkpoint import Checkpoint
from flatmeter.missing import guess_data, guess_model, missing
from flatmeter.model.registry import build_model


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_residual_networks_are_told_apart(name):
    with torch.device("meta"):
        tensors = build_model(f"torchvision:{name}", {"num_classes": 7}).state_dict()
    assert guess_model(tensors) == (f"torchvision:{name}", {"num_classes": 7})
    wrapped = {f"module.{key}": value for key, value in tensors.items()}
    assert guess_model(wrapped)[0] == f"torchvision:{name}"


def _net(first, classes):
    return {"a.weight": torch.zeros(first), "b.weight": torch.zeros(classes, 8)}


@pytest.mark.parametrize(
    ("tensors", "data"),
    [
        (_net((8, 3, 3, 3), 10), "torchvision:CIFAR10@DIR"),
        (_net((8, 3, 3, 3), 100), "torchvision:CIFAR100@DIR"),
        (_net((8, 3, 7, 7), 1000), "imagefolder@DIR"),
        (_net((8, 1, 5, 5), 10), "torchvision:MNIST@DIR"),
        (_net((32, 784), 10), "torchvision:MNIST@DIR"),
        (_net((32, 64), 10), "digits:train"),
        (_net((32, 12), 3), "path/to/data.py:factory"),
        ({}, "path/to/data.py:factory"),
    ],
)
def test_data_are_guessed_from_the_first_and_the_last_layer(tensors, data):
    assert guess_data(tensors) == data


def test_the_message_gives_flags_and_lines():
    with torch.device("meta"):
        tensors = build_model("torchvision:resnet18", {"num_classes": 10}).state_dict()
    checkpoint = Checkpoint(Path("runs/a.pt"), "torch zip", tensors, {}, "", ())
    error = missing(checkpoint, ["model", "data"])
    assert str(error).splitlines() == [
        "runs/a.pt: nothing says which network these weights belong to and which data it learnt "
        "from",
        "it begins with conv1.weight [64, 3, 7, 7], bn1.weight [64], bn1.bias [64]; a guess, to "
        "correct where it is wrong:",
        "  --model torchvision:resnet18 --model-arg num_classes=10 --data torchvision:CIFAR10@DIR",
        "or, in a.pt.yaml beside it or in flatmeter.yaml:",
        "  model: torchvision:resnet18",
        "  model_args: {num_classes: 10}",
        "  data: torchvision:CIFAR10@DIR",
    ]
