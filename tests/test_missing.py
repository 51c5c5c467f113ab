from pathlib import Path

import pytest
import torch

from flatmeter.checkpoint import Checkpoint
from flatmeter.missing import guess_data, missing
from flatmeter.model.infer import infer
from flatmeter.model.registry import build_model


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


def _message(tensors):
    checkpoint = Checkpoint(Path("runs/a.pt"), "torch zip", tensors, {}, "", ())
    return str(missing(checkpoint, ["model", "data"], infer(tensors))).splitlines()


def test_the_message_gives_flags_and_lines():
    with torch.device("meta"):
        tensors = build_model("torchvision:resnet18", {"num_classes": 10}).state_dict()
    del tensors["fc.bias"]
    head, *lines = _message(tensors)
    assert head == (
        "runs/a.pt: nothing says which network these weights belong to and which data it learnt "
        "from"
    )
    assert lines[:2] == [
        "its names and shapes are those of no known network; the nearest:",
        "  torchvision:resnet18 num_classes=10: 1 missing (fc.bias)",
    ]
    assert lines[4:] == [
        "it begins with conv1.weight [64, 3, 7, 7], bn1.weight [64], bn1.bias [64]; a guess, to "
        "correct where it is wrong:",
        "  --model torchvision:resnet18 --model-arg num_classes=10 --data torchvision:CIFAR10@DIR",
        "or, in a.pt.yaml beside it or in flatmeter.yaml:",
        "  model: torchvision:resnet18",
        "  model_args: {num_classes: 10}",
        "  data: torchvision:CIFAR10@DIR",
    ]


def test_the_message_names_every_network_that_fits():
    with torch.device("meta"):
        args = {"num_classes": 10, "init_weights": False}
        tensors = build_model("torchvision:googlenet", args).state_dict()
    lines = _message(tensors)
    assert lines[1] == "its names and shapes are those of several networks; say which:"
    start = (
        "  --model torchvision:googlenet --model-arg num_classes=10 --model-arg transform_input="
    )
    assert lines[2:4] == [start + "false", start + "true"]


def test_the_message_where_nothing_is_like_it():
    lines = _message({"a.weight": torch.zeros(3, 12)})
    assert lines[1] == "its names are like those of no network of torchvision or timm"
    assert "--model path/to/net.py:factory" in lines[3]


def test_a_network_that_is_known_is_not_asked_for():
    with torch.device("meta"):
        tensors = build_model("torchvision:resnet18", {"num_classes": 10}).state_dict()
    checkpoint = Checkpoint(Path("runs/a.pt"), "torch zip", tensors, {}, "", ())
    text = str(missing(checkpoint, ["data"], infer(tensors)))
    assert "--data torchvision:CIFAR10@DIR" in text
    assert "resnet18" not in text
