"""Scale-invariant blocks: named, disjoint, and confirmed by Euler's identity."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

from flatmeter.risk.space import ParameterSpace
from flatmeter.symmetry.blocks import scale_invariant_blocks
from flatmeter.symmetry.find import find_group


def blocks_of(net, x):
    space = ParameterSpace.from_module(net)
    return scale_invariant_blocks(find_group(net, x, space.names), space), space


def euler_ratio(net, space, x, block):
    """``|θ_b · ∇_b s| / (‖θ_b‖ ‖∇_b s‖)`` for a random function s of the outputs."""
    named = dict(net.named_parameters())
    flat = space.flatten({n: named[n].detach() for n in space.names}).requires_grad_()
    z = functional_call(net, space.unflatten(flat), (x,))
    (g,) = torch.autograd.grad((torch.randn_like(z) * z).sum(), flat)
    w, g = flat.detach()[block], g[block]
    return float((w @ g).abs() / (w.norm() * g.norm()).clamp_min(1e-300))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # The bias in front of the batch-norm is null and in no block.
        (
            "batch-norm, own",
            [f"0.weight[{i}]" for i in range(4)] + [f"3.weight[{i}]" for i in range(5)],
        ),
        ("group-norm", ["0.weight[0:2], 0.bias[0:2]", "0.weight[2:4], 0.bias[2:4]"]),
        (
            "weight-norm",
            [f"0.parametrizations.weight.original1[{i}]" for i in range(5)]
            + [f"2.parametrizations.weight.original1[{i}]" for i in range(3)],
        ),
        ("pre-norm", ["stem.weight, stem.bias, b.weight, b.bias"]),
        ("swiglu", ["stem.weight, stem.bias, down.weight"]),
        ("batch-norm, stored", []),
        ("mlp", []),
    ],
)
def test_blocks_by_name(found, name, expected):
    known = found(name)
    blocks = scale_invariant_blocks(known.group, known.space)
    assert [b.name for b in blocks] == expected
    entries = torch.cat([b.indices for b in blocks]) if blocks else torch.zeros(0)
    assert len(torch.unique(entries)) == len(entries)
    for block in blocks:
        assert euler_ratio(known.net, known.space, known.x, block.indices) < 1e-10


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(4, 4, 3, groups=4), [f"0.weight[{i}]" for i in range(4)]),
        (nn.ConvTranspose2d(4, 3, 3), [f"0.weight[:, {i}]" for i in range(3)]),
    ],
)
def test_rows_are_those_of_output_channels(layer, expected):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(layer.out_channels, eps=1e-20, track_running_stats=False)
    net = nn.Sequential(layer, norm, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).double()
    x = torch.randn(5, 4, 6, 6).double()
    net(x)
    blocks, space = blocks_of(net, x)
    assert [b.name for b in blocks] == expected
    for block in blocks:
        assert euler_ratio(net, space, x, block.indices) < 1e-10


def test_a_linear_layer_before_layer_norm_is_one_block():
    net = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 2))
    (block,), _ = blocks_of(net, torch.randn(3, 4))
    assert block.name == "0.weight, 0.bias"
    assert block.indices.tolist() == list(range(25))


def test_groups_of_a_grouped_transposed_convolution():
    net = nn.Sequential(
        nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False),
        nn.BatchNorm2d(6, track_running_stats=False),
        nn.Flatten(),
        nn.Linear(54, 2),
    )
    blocks, _ = blocks_of(net, torch.randn(3, 4, 2, 2))
    # Channel 4 is the second of the second group: column 1 of rows 2 and 3.
    assert len(blocks) == 6
    weight = torch.arange(4 * 3 * 4).reshape(4, 3, 4)
    assert blocks[4].indices.tolist() == weight[2:, 1].flatten().tolist()
