"""Small networks of flatmeter's zoo and others, with their parameters moved along their groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import torch
from known_nets import KNOWN
from torch import nn

from flatmeter.model.registry import build_model
from flatmeter.randomness import derived_generator
from flatmeter.risk.epsilon import scale_eps
from flatmeter.symmetry.blocks import scale_invariant_blocks
from flatmeter.symmetry.find import find_group


@dataclass(frozen=True)
class Net:
    """A network to be moved.

    Args:
        make: builds it.
        shape: of one input.
        bn: batch-norm's mode, where it has one.
        hidden: the tensors that lead to hidden units, and the one that leads away from them.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    bn: str = "eval"
    hidden: tuple[tuple[str, ...], str] | None = None


class Pooled(nn.Module):
    """The mean of a network's outputs over tokens."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).mean(1)


def mlp(bn="eval", hidden=None, **options):
    options = {"in_features": 4, "hidden": [5, 4], "classes": 3, **options}
    return Net(partial(build_model, "zoo:mlp", options), (4,), bn, hidden)


def images(name, bn="eval", **options):
    options = {"classes": 3, **options}
    return Net(partial(build_model, f"zoo:{name}", options), (1, 5, 5), bn)


FIRST = "linear0.weight", "linear0.bias"
NORM = "norm0.weight", "norm0.bias"
NETS = {
    "mlp": mlp(hidden=(FIRST, "linear1.weight")),
    "mlp layer-norm": mlp(norm="layer"),
    "mlp batch-norm": mlp(norm="batch"),
    "mlp batch statistics": mlp("batch", (FIRST + NORM, "linear1.weight"), norm="batch"),
    "cnn": images("cnn", channels=[2, 3]),
    "cnn batch statistics": images("cnn", "batch", channels=[2, 3], norm="batch"),
    "resnet": images("resnet", width=2, norm="none"),
    "resnet batch-norm": images("resnet", width=3, blocks=[1]),
    "resnet batch statistics": images("resnet", "batch", width=3, blocks=[1]),
    **{
        name: Net(KNOWN[name].make, KNOWN[name].shape)
        for name in ("gated unit", "depth-wise separable", "group-norm")
    },
    "attention": Net(lambda: Pooled(KNOWN["attention"].make()), KNOWN["attention"].shape),
    "swiglu": Net(lambda: Pooled(KNOWN["swiglu"].make()), KNOWN["swiglu"].shape),
}
STATISTICS = tuple(name for name, net in NETS.items() if net.bn == "batch")
ALONE = tuple(name for name in NETS if name not in STATISTICS)


def prepared(name, make_risk, eps_factor=1e-15):
    """Risk, group and parameters by move; ``values`` is for whoever measures them."""
    torch.manual_seed(0)
    net = NETS[name].make().double().eval()
    scale_eps(net, eps_factor)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        for key, buffer in net.named_buffers():
            if "running_mean" in key:
                buffer.normal_()
            elif "running_var" in key:
                buffer.uniform_(0.5, 2)
    x = torch.randn(12, *NETS[name].shape).double()
    y = torch.arange(12) % 3
    risk = make_risk(net, x, y, bn=NETS[name].bn)
    group = find_group(risk.module, risk.example_inputs(), risk.space.names)
    assert group.notes == ()
    return SimpleNamespace(risk=risk, group=group, moved=moves(NETS[name], risk, group), values={})


def moves(net, risk, group):
    """The parameters before and after each move."""
    theta, source = risk.theta, derived_generator(0, "moves")
    moved = {"nothing": theta}
    if group.dim:
        moved["tensors"] = group.act(group.random(source, 1.5), theta, risk.space)
    if group.channels.count > 1:
        s = torch.rand(group.channels.count, generator=source, dtype=torch.float64)
        moved["channels"] = group.channels.act(2 * s - 1, theta)
    blocks = scale_invariant_blocks(group, risk.space)
    if blocks:
        moved["blocks"] = theta.clone()
        for block in blocks:
            moved["blocks"][block.indices] *= float(torch.randn(1, generator=source).exp())
    if net.hidden is not None:
        into, out = net.hidden
        tensors = {n: w.clone() for n, w in risk.space.unflatten(theta).items()}
        order = torch.tensor([3, 0, 4, 2, 1])
        for tensor in into:
            tensors[tensor] = tensors[tensor][order]
        tensors[out] = tensors[out][:, order]
        moved["units"] = risk.space.flatten(tensors)
    return moved
