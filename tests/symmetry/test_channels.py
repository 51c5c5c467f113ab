"""Scales of single channels: counted, invariant, and as many as the Jacobian leaves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, jacrev

from flatmeter.risk.space import ParameterSpace
from flatmeter.symmetry.find import find_group


def setting(net):
    space = ParameterSpace.from_module(net)
    named = dict(net.named_parameters())
    return space, space.flatten({n: named[n].detach() for n in space.names})


def channels_of(net, x):
    return find_group(net, x, [n for n, p in net.named_parameters() if p.requires_grad]).channels


def scales(channels, seed, size=2.0):
    generator = torch.Generator().manual_seed(seed)
    return size * (2 * torch.rand(channels.count, generator=generator, dtype=torch.float64) - 1)


def test_outputs_do_not_see_scales_of_channels(known):
    net, x, _ = known
    channels = channels_of(net, x)
    space, flat = setting(net)
    before = functional_call(net, space.unflatten(flat), (x,))
    for seed in range(3):
        moved = channels.act(scales(channels, seed), flat)
        after = functional_call(net, space.unflatten(moved), (x,))
        torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10)


def directions(channels, flat):
    """One column ``[P]`` for each identifier: what its scale does to the parameters."""
    one = torch.eye(channels.count, dtype=torch.float64)[1:]
    return torch.stack([(channels.act(1e-7 * s, flat) - flat) / 1e-7 for s in one], 1)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mlp", 5 + 6),
        ("residual", 5 + 6),  # the stream's channels, and the inner ones
        ("concatenated", 2 + 3),
        ("depth-wise separable", 6 + 6 + 4),
        ("grouped and transposed", 6 + 4),
        ("squeeze-excite", 4 + 4 + 2),  # what the gate sees is scaled back by its first weight
        ("batch-norm, stored", 4 + 5),
        ("batch-norm, own", 4 + 4 + 4 + 5 + 5),  # rows, null biases, gains; rows, gains
        (
            "weight-norm",
            5 + 3 + 1,
        ),  # rows of v twice; one gain for all inputs
        ("group-norm", 2 + 4),
        ("pre-norm", 1 + 6 + 5 + 6),  # the stream, gains, inner channels, last gains
        ("post-norm", 1 + 6 + 5),
    ],
)
def test_number_of_channel_scales(make, name, count):
    net = make(name)
    shape = {"mlp": (3, 4), "residual": (3, 4), "weight-norm": (3, 4)}
    shape |= {
        "pre-norm": (3, 2, 4),
        "post-norm": (3, 2, 4),
        "grouped and transposed": (2, 4, 12, 12),
    }
    x = torch.randn(shape.get(name, (2, 3, 8, 8))).double()
    channels = channels_of(net, x)
    assert channels.count - 1 == count
    _, flat = setting(net)
    assert torch.linalg.matrix_rank(directions(channels, flat)) == count


@pytest.mark.parametrize("name", ["mlp", "concatenated"])
def test_no_diagonal_symmetry_of_neurons_is_missed(make, name):
    """Every rescaling of single rows and columns that the Jacobian allows is in the group."""
    net = make(name)
    # Inputs so large that no neuron is silent: a dead one may be scaled at will.
    x = 30 * torch.randn(*((90, 4) if name == "mlp" else (60, 3, 8, 8))).double()
    space, flat = setting(net)
    tangent = []
    for tensor, w in space.unflatten(flat).items():
        for dim in range(min(w.ndim, 2)):
            for i in range(w.shape[dim]):
                v = {n: torch.zeros_like(t) for n, t in space.unflatten(flat).items()}
                v[tensor].select(dim, i).copy_(w.select(dim, i))
                tangent.append(space.flatten(v))
    T = torch.stack(tangent, 1)
    J = jacrev(lambda f: functional_call(net, space.unflatten(f), (x,)))(flat).flatten(0, 1)
    rank = lambda A: int((torch.linalg.svdvals(A) > 1e-9 * torch.linalg.svdvals(A)[0]).sum())  # noqa: E731
    allowed = rank(T) - rank(J @ T)
    assert channels_of(net, x).count - 1 == allowed


def test_flatten_repeats_a_channel_over_its_positions():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).double()
    channels = channels_of(net, torch.randn(2, 2, 4, 4).double())
    weight = channels.minus[-26:-2].reshape(2, 3, 4)
    assert (weight == torch.arange(1, 4).reshape(1, 3, 1)).all()
    assert (channels.plus[-26:] == 0).all()


def test_a_shuffle_moves_channels():
    class Shuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            x = F.relu(self.a(x))
            x = x.view(len(x), 2, 3, *x.shape[2:]).transpose(1, 2).reshape(x.shape)
            return self.b(x)

    channels = channels_of(Shuffled().double(), torch.randn(2, 2, 3, 3).double())
    assert channels.count == 7
    assert channels.minus[18:24].tolist() == [1, 4, 2, 5, 3, 6]


def test_values_of_attention_keep_their_channels(make):
    net = make("attention")
    channels = channels_of(net, torch.randn(2, 3, 4).double())
    space, _ = setting(net)
    moved = {n for n in space.names if channels.plus[space.slice(n)].any()}
    assert moved == {"k.bias", "v.weight", "v.bias"}
    assert channels.null[space.slice("k.bias")].all()
    assert not channels.null[space.slice("v.bias")].any()


def test_a_gain_for_every_channel_passes_scales_on():
    class LayerScale(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)
            self.gamma = nn.Parameter(torch.randn(5))

        def forward(self, x):
            return self.b(F.relu(self.a(x)) * self.gamma)

    # Five scales before the gain and five behind it.
    assert channels_of(LayerScale().double(), torch.randn(3, 4).double()).count == 11


def test_matrix_products_with_a_parameter():
    class Transposed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(5, 3))
            self.shift = nn.Parameter(torch.randn(5))

        def forward(self, x):
            return torch.addmm(self.shift, x, self.a).relu() @ self.b

    channels = channels_of(Transposed().double(), torch.randn(3, 4).double())
    assert channels.count == 6
    assert channels.plus[:20].reshape(4, 5).tolist() == [[1, 2, 3, 4, 5]] * 4


def test_a_packed_weight_is_split():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.out = nn.Parameter(torch.randn(6, 4)), nn.Linear(3, 2)

        def forward(self, x):
            a, b = self.weight.chunk(2)
            return self.out(F.relu(F.linear(x, a)) + F.relu(F.linear(x, b)))

    channels = channels_of(Packed().double(), torch.randn(5, 4).double())
    assert channels.count == 4
    assert torch.equal(channels.plus[:12], channels.plus[12:24])


@pytest.mark.parametrize(
    ("between", "count"),
    [
        (lambda x: torch.pixel_shuffle(x, 2), 8),
        (lambda x: torch.channel_shuffle(x, 2), 8),
        (lambda x: x.unfold(2, 2, 2), 8),
        (lambda x: x.view_as(x), 8),
        # The other seven rows are not used, and free.
        (lambda x: x[:, :1].expand_as(x), 8),
        (lambda x: torch.cat(x.split([3, 5], 1)[::-1], 1), 8),
        (lambda x: x.permute(0, 2, 3, 1).contiguous(), 8),
        (lambda x: x[:, torch.tensor([0, 2, 1])], 1),
        (lambda x: x.cumsum(1), 1),
        (lambda x: F.interpolate(x, scale_factor=2), 8),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), 8),
        (lambda x: x - x.mean(), 1),
        (lambda x: x * x.mean(), 0),
        (lambda x: torch.maximum(x, -x), 8),
        # Lengths that are values: nothing is followed, nothing is invented.
        (lambda x: x.repeat_interleave(torch.tensor([1, 2, 1, 1, 1, 1, 1, 1]), 1), 0),
    ],
)
def test_operators_one_at_a_time(between, count):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.LazyLinear(2)

        def forward(self, x):
            return self.b(F.relu(between(self.a(x))).flatten(1))

    torch.manual_seed(0)
    net, x = Net(), torch.randn(2, 3, 4, 4)
    net(x)
    group = find_group(net, x, [n for n, _ in net.named_parameters()])
    assert group.notes == ()
    assert group.channels.count - 1 == count
