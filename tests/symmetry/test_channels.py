"""Scales of single channels, operator by operator."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from flatmeter.risk.space import ParameterSpace
from flatmeter.symmetry.channel_dimension import channel_dimension
from flatmeter.symmetry.find import find_group


def channels_of(net, x):
    return find_group(net, x, [n for n, p in net.named_parameters() if p.requires_grad]).channels


def scales(channels, seed, size=2.0):
    generator = torch.Generator().manual_seed(seed)
    return size * (2 * torch.rand(channels.count, generator=generator, dtype=torch.float64) - 1)


def test_outputs_do_not_see_scales_of_channels(known):
    channels, space = known.group.channels, known.space
    before = functional_call(known.net, space.unflatten(known.flat), (known.x,))
    for seed in range(3):
        moved = channels.act(scales(channels, seed), known.flat)
        after = functional_call(known.net, space.unflatten(moved), (known.x,))
        torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10)


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


def test_attention_scales_queries_against_keys_and_values_against_the_output(make):
    net = make("attention")
    channels = channels_of(net, torch.randn(2, 3, 4).double())
    weights = dict(zip(ParameterSpace.from_module(net).names, channels.laws, strict=True))
    q, k, v, o = (weights[f"{n}.weight"] for n in "qkvo")
    assert torch.equal(q.plus, -k.plus)
    assert len(q.plus.unique()) == 4
    assert torch.equal(v.plus.flatten(), o.minus.flatten())
    assert not set(v.plus.flatten().tolist()) & set(q.plus.abs().flatten().tolist())


def test_heads_that_share_keys_and_values_share_their_scales():
    """Four heads of queries, two of keys and values, of two channels each."""

    class Grouped(nn.Module):
        def __init__(self, repeats):
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(4, n) for n in (8, 4, 4, 4))
            self.o, self.repeats = nn.Linear(8, 3), repeats

        def forward(self, x):
            q, k, v = (
                f(x).unflatten(-1, (-1, 2)).transpose(1, 2) for f in (self.q, self.k, self.v)
            )
            if self.repeats:
                k, v = (t.repeat_interleave(2, 1) for t in (k, v))
            h = F.scaled_dot_product_attention(q, k, v, enable_gqa=not self.repeats)
            return self.o(h.transpose(1, 2).flatten(2))

    for repeats in (True, False):
        channels = channels_of(Grouped(repeats).double(), torch.randn(2, 3, 4).double())
        # Queries, values, and the keys' bias, which changes nothing.
        assert channels.count - 1 == 4 + 4 + 4


def test_rotary_positions_leave_a_scale_for_each_plane():
    class Rotary(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(4, 4, bias=False) for _ in range(3))

        def forward(self, x):
            angle = torch.arange(x.shape[1])[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1])

            def turn(t):
                quarter = torch.cat([-t[..., 2:], t[..., :2]], -1)
                return t * angle.cos() + quarter * angle.sin()

            scores = turn(self.q(x)) @ turn(self.k(x)).transpose(-1, -2)
            return scores.softmax(-1) @ self.v(x)

    channels = channels_of(Rotary(), torch.randn(2, 3, 4))
    assert channels.count - 1 == 2


@pytest.mark.parametrize(
    "normalise",
    [
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
        lambda x: x / (x * x).mean(-1, keepdim=True).add(1e-6).sqrt(),
        lambda x: x / (x.norm(dim=-1, keepdim=True) + 1e-6),
        lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-6) ** 0.5,
        lambda x: F.normalize(x, dim=-1),
    ],
)
def test_a_normalisation_written_out_lets_its_input_scale(normalise):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.gain, self.b = (
                nn.Linear(4, 5),
                nn.Parameter(torch.ones(5)),
                nn.Linear(5, 3),
            )

        def forward(self, x):
            return self.b(self.gain * normalise(self.a(x)))

    torch.manual_seed(0)
    group = find_group(Net(), torch.randn(6, 4), [n for n, _ in Net().named_parameters()])
    assert group.notes == ()
    assert group.dim == 2
    assert group.channels.count - 1 == 1 + 5


@pytest.mark.parametrize(
    "normalise", [lambda x: x * x.square().mean(-1, keepdim=True), torch.square]
)
def test_powers_that_do_not_cancel_hold_still(normalise):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.b(normalise(self.a(x)))

    assert channels_of(Net(), torch.randn(6, 4)).count == 1


def test_spectral_norm_frees_the_scale_of_the_weight():
    layer, relu = nn.utils.parametrizations.spectral_norm, nn.ReLU()
    net = nn.Sequential(layer(nn.Linear(4, 5)), relu, nn.Linear(5, 6), relu, nn.Linear(6, 3))
    channels = channels_of(net.eval(), torch.randn(8, 4))
    assert channel_dimension(channels) == 1 + 6


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
        (lambda x: F.interpolate(x, 6, mode="bicubic", antialias=True), 8),
        (lambda x: F.interpolate(x, 3, mode="bilinear", antialias=True), 8),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), 8),
        (lambda x: x - x.mean(), 1),
        (lambda x: x * x.mean(), 0),
        (lambda x: torch.maximum(x, -x), 8),
        (lambda x: torch.max(x, -x) + torch.min(x, 0.1 * x), 8),
        (lambda x: torch.max(x, -x.max()), 1),
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
