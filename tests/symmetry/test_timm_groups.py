"""Groups of timm's families, narrow and shallow, counted by hand."""

from __future__ import annotations

import pytest
import torch

from flatmeter.import_torchvision import import_torchvision
from flatmeter.symmetry.find import find_group

import_torchvision()  # timm imports it, and in some installations that needs help
timm = pytest.importorskip("timm")


def vit():
    return timm.models.VisionTransformer(
        img_size=32, patch_size=16, embed_dim=12, depth=2, num_heads=2, num_classes=5
    )


def swin():
    return timm.models.SwinTransformer(
        img_size=32, patch_size=4, window_size=2, embed_dim=8, depths=(1, 1), num_heads=(2, 2),
        num_classes=5,
    )  # fmt: skip


def convnext():
    return timm.models.ConvNeXt(depths=(1, 1, 1, 1), dims=(4, 4, 4, 4), num_classes=5)


def mixer():
    return timm.models.MlpMixer(
        img_size=32, patch_size=16, num_blocks=2, embed_dim=8, num_classes=5
    )


def resnet():
    block = timm.models.resnet.BasicBlock
    return timm.models.ResNet(block, (1, 1, 1, 1), channels=(4, 4, 4, 4), num_classes=5)


CASES = {
    # In each block a norm against the packed projection and one against what expands; the stream,
    # and the last norm against the head.
    "vit": (vit, 2 * 2 + 2),
    # The same; a stream in either stage, the norm between them against the reduction, and the
    # patches in front of their norm.
    "swin": (swin, 2 * 2 + 2 + 1 + 1 + 1),
    # What enters the block's norm, its gain, its layer scale; four streams, three norms between
    # them, the stem in front of its norm, the head.
    "convnext": (convnext, 4 * 3 + 4 + 3 + 1 + 1),
    "mixer": (mixer, 2 * 2 + 2),
    # With stored statistics only gains move: inside each block, in the stream of each stage, and
    # in the stem, which is wider than the first of them.
    "resnet": (resnet, 4 + 4 + 1),
}


@pytest.mark.parametrize("name", CASES)
def test_group(name):
    torch.manual_seed(0)
    make, dim = CASES[name]
    net = make().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    group = find_group(net, torch.randn(2, 3, 32, 32), [n for n, _ in net.named_parameters()])
    assert group.notes == ()
    assert group.unknown_operators == {}
    assert group.dim == dim
    assert group.channels.count > dim
    assert group.exact_error < 1e-12
