"""Dimensions of the groups of well-known architectures, on small images."""

from __future__ import annotations

import pytest
import torch

from flatmeter.import_torchvision import import_torchvision
from flatmeter.risk.batch_norm import private_copy
from flatmeter.risk.space import ParameterSpace
from flatmeter.symmetry.blocks import scale_invariant_blocks
from flatmeter.symmetry.find import find_group


@pytest.fixture(scope="module")
def models():
    return import_torchvision().models


def narrow_vgg11(models):
    """VGG-11 with a head 64 wide instead of 4096, which has the same symmetries."""
    net = models.vgg11(weights=None)
    for i, (source, target) in {0: (25088, 64), 3: (64, 64), 6: (64, 10)}.items():
        net.classifier[i] = torch.nn.Linear(source, target)
    return net


def group_of(net, pixels, bn="eval"):
    net = private_copy(net, bn=bn, device=torch.device("cpu"), dtype=torch.float32)
    x = torch.randn(2, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))
    return find_group(net, x, ParameterSpace.from_module(net).names)


@pytest.mark.parametrize(
    ("name", "pixels", "bn", "dim"),
    [
        ("resnet18", 64, "eval", 12),
        ("resnet18", 64, "batch", 32),
        ("resnet50", 33, "eval", 37),
        ("squeezenet1_1", 64, "eval", 17),
        pytest.param("alexnet", 64, "eval", 7, marks=pytest.mark.slow),
        pytest.param("densenet121", 32, "eval", 120, marks=pytest.mark.slow),
    ],
)
def test_dimension(models, name, pixels, bn, dim):
    torch.manual_seed(0)
    group = group_of(getattr(models, name)(weights=None), pixels, bn)
    assert group.dim == dim
    assert group.notes == ()
    assert group.unknown_operators == {}
    assert group.error < (1e-12 if bn == "eval" else 1e-2)
    assert all(g.exact == (bn == "eval") for g in group.generators)
    assert group.channels.count > dim


def test_dimension_of_vgg11(models):
    group = group_of(narrow_vgg11(models), 32)
    assert group.dim == 10
    assert group.error < 1e-12


def test_every_filter_before_batch_statistics_is_a_block(models):
    net = models.resnet18(weights=None)
    group = group_of(net, 64, "batch")
    blocks = scale_invariant_blocks(group, ParameterSpace.from_module(net))
    filters = sum(m.weight.shape[0] for m in net.modules() if isinstance(m, torch.nn.Conv2d))
    assert len(blocks) == filters == 4800
    assert blocks[3].name == "conv1.weight[3]"


@pytest.mark.parametrize(
    ("name", "seed", "dim"),
    # 52 convolutions, 7 streams and the shifts of the 17 batch-norms that write to them; 53
    # convolutions and 53 gains and gates.
    [("mobilenet_v2", 0, 52 + 7 + 17), ("regnet_y_400mf", 1, 53 + 53)],
)
def test_two_samples_on_maps_of_one_pixel_hide_no_symmetry(models, name, seed, dim):
    """Where a channel has hardly any variance ε decides, and rounding is magnified."""
    torch.manual_seed(seed)
    group = group_of(getattr(models, name)(weights=None, num_classes=10), 32, "batch")
    assert group.notes == ()
    assert group.dim == dim
    assert group.channels.count > dim
