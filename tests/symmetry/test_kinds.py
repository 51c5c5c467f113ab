"""What people call the symmetries of networks whose groups are known."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatmeter.risk.space import ParameterSpace
from flatmeter.symmetry.find import find_group

KINDS = {
    "mlp": {"between layers": 2},
    "residual": {"between layers": 2},
    "gated unit": {"between layers": 2},
    "attention": {"query-key": 1, "value-output": 1, "bias without effect": 1},
    # The stream's writers, and with the last gain what reads them.
    "pre-norm": {"scale-invariant": 1, "between layers": 3},
    "post-norm": {"scale-invariant": 1, "between layers": 2},
    "swiglu": {"scale-invariant": 1, "between layers": 3},
    "concatenated": {"between layers": 1},
    "batch-norm, stored": {"between layers": 2},
    # Both weights, and the first gain, which the second batch-norm takes away.
    "batch-norm, own": {"scale-invariant": 3, "bias without effect": 1, "between layers": 1},
    "linear bottleneck, own": {"scale-invariant": 8, "bias without effect": 2, "between layers": 1},
    "weight-norm": {"scale-invariant": 2, "between layers": 1},
    "group-norm": {"scale-invariant": 1, "between layers": 1},
    "tied embedding": {"between layers": 2},
}


@pytest.mark.parametrize("name", KINDS)
def test_known_networks(found, name):
    assert Counter(g.kind for g in found(name).group.generators) == KINDS[name]


def kinds_of(net, x):
    net = net.double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    group = find_group(net, x, ParameterSpace.from_module(net).names)
    return {g.words: g.kind for g in group.generators}


class WrittenAttention(nn.Module):
    """Scores, mask, softmax and dropout written out."""

    def __init__(self, temperature=2.0, *, bias=False, over=-1, hidden=-math.inf):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(4, 4, bias=bias) for _ in range(4))
        self.temperature, self.over, self.hidden = temperature, over, hidden

    def forward(self, x):
        scores = torch.matmul(self.q(x), self.k(x).transpose(1, 2)) / self.temperature
        mask = torch.ones(3, 3, dtype=torch.bool).tril()
        weights = scores.masked_fill(~mask, self.hidden).softmax(self.over)
        return self.o(F.dropout(weights, 0.1, self.training) @ self.v(x))


def test_attention_that_is_written_out():
    assert kinds_of(WrittenAttention(), torch.randn(2, 3, 4).double()) == {
        "q.weight up; k.weight down": "query-key",
        "v.weight up; o.weight down": "value-output",
    }


@pytest.mark.parametrize("shape", [(), (1, 1)])
def test_keys_of_written_attention_have_a_bias_without_effect(shape):
    temperature = nn.Parameter(torch.full(shape, 2.0))
    kinds = kinds_of(WrittenAttention(temperature, bias=True), torch.randn(2, 3, 4).double())
    assert kinds["k.bias alone"] == "bias without effect"
    assert kinds["temperature, k.weight up"] == "between layers"
    assert len(kinds) == 4


@pytest.mark.parametrize(
    "options",
    [{"hidden": 0.0}, {"temperature": nn.Parameter(torch.rand(3) + 1)}],
)
def test_softmax_sees_a_bias_that_does_not_shift_all_its_scores_alike(options):
    kinds = kinds_of(WrittenAttention(bias=True, **options), torch.randn(2, 3, 4).double())
    assert "bias without effect" not in kinds.values()


class LowRank(nn.Module):
    """A weight made of two factors, and a parameter that nothing uses."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(2, 4))
        self.spare = nn.Parameter(torch.randn(2))
        self.aside = nn.Linear(4, 2, bias=False)

    def forward(self, x):
        self.aside(x)
        return F.linear(x, self.a @ self.b)


def test_factors_of_a_weight_and_what_is_not_used():
    assert kinds_of(LowRank(), torch.randn(2, 4).double()) == {
        "a up; b down": "factors",
        "spare alone": "unused",
        "aside.weight alone": "unused",
    }


def test_a_weight_divided_by_its_own_norm():
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Tanh())
    nn.utils.parametrizations.spectral_norm(net[0])
    kinds = kinds_of(net, torch.randn(2, 4).double())
    assert set(kinds.values()) <= {"scale-invariant"}


class ThroughNumpy(nn.Module):
    """Two layers whose outputs leave the graph and come back as other numbers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5, bias=False), nn.Linear(5, 3)

    def forward(self, x):
        return torch.from_numpy(self.b(F.relu(self.a(x))).detach().numpy())


def test_what_is_seen_only_through_numpy_is_used():
    kinds = kinds_of(ThroughNumpy(), torch.randn(2, 4).double())
    assert kinds == {"a.weight up; b.weight down": "between layers"}
