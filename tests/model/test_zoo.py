"""The small networks: shapes, parts and counts that can be worked out by hand."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from torch import nn

from flatmeter.errors import UsageError
from flatmeter.model.registry import build_model
from flatmeter.model.zoo import ZOO

X = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def kinds(model) -> Counter:
    return Counter(type(m).__name__ for m in model.modules())


def size(model) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", list(ZOO))
def test_defaults_take_the_digits(name):
    model = build_model(f"zoo:{name}", {}).eval()
    assert model(X).shape == (5, 10)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("mlp", {"in_features": 64, "hidden": [16], "classes": 3, "norm": "layer"}),
        ("mlp", {"hidden": [], "classes": 2}),
        ("mlp", {"hidden": [8, 8, 8], "activation": "gelu", "bias": False, "norm": "batch"}),
        ("cnn", {"channels": [4], "activation": "tanh", "norm": "batch"}),
        ("resnet", {"width": 4, "blocks": [2, 1], "norm": "none"}),
    ],
)
def test_arguments_survive_json(name, args):
    first = build_model(name, args)
    again = build_model(name, json.loads(json.dumps(args)))
    again.load_state_dict(first.state_dict(), strict=True)
    torch.testing.assert_close(first.eval()(X), again.eval()(X))


def test_sizes_by_hand():
    assert size(build_model("mlp", {"hidden": [32, 16]})) == (
        64 * 32 + 32 + 32 * 16 + 16 + 16 * 10 + 10
    )
    assert size(build_model("mlp", {"hidden": [32], "bias": False})) == 64 * 32 + 32 * 10
    assert size(build_model("mlp", {"hidden": [32], "norm": "batch"})) == (
        64 * 32 + 32 + 2 * 32 + 32 * 10 + 10
    )
    assert size(build_model("cnn", {"channels": [4, 6]})) == (
        9 * 4 + 4 + 9 * 4 * 6 + 6 + 6 * 10 + 10
    )


@pytest.mark.parametrize(
    ("name", "norm", "layer"),
    [
        ("mlp", "batch", "BatchNorm1d"),
        ("mlp", "layer", "LayerNorm"),
        ("cnn", "batch", "BatchNorm2d"),
        ("resnet", "batch", "BatchNorm2d"),
    ],
)
def test_norms(name, norm, layer):
    every = {"BatchNorm1d", "BatchNorm2d", "LayerNorm"}
    assert every & set(kinds(build_model(name, {"norm": norm}))) == {layer}
    assert not every & set(kinds(build_model(name, {"norm": "none"})))


@pytest.mark.parametrize(
    ("activation", "layer"), [("relu", nn.ReLU), ("gelu", nn.GELU), ("tanh", nn.Tanh)]
)
def test_activations(activation, layer):
    counts = kinds(build_model("mlp", {"hidden": [4, 4], "activation": activation}))
    assert counts[layer.__name__] == 2


def test_residual_network_is_residual():
    """With its inner convolutions at zero, a block without norm is φ of its shortcut."""
    model = build_model("resnet", {"width": 4, "blocks": [1], "norm": "none"})
    block = next(m for m in model.modules() if type(m).__name__ == "ResidualBlock")
    for parameter in block.inner.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(block(x), x.relu())


@pytest.mark.parametrize("name", list(ZOO))
def test_activations_are_not_in_place(name):
    """In-place activations would overwrite what second derivatives need."""
    model = build_model(name, {})
    assert not any(getattr(m, "inplace", False) for m in model.modules())


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("mlp", {"activation": "swish"}, "relu, gelu, tanh"),
        ("mlp", {"norm": "group"}, "batch, layer, none"),
        ("cnn", {"norm": "layer"}, "batch, none"),
    ],
)
def test_choices(name, args, said):
    with pytest.raises(UsageError, match=said):
        build_model(name, args)
