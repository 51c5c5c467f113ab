"""Every trap that the preflight must catch, each as a network that falls into it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatmeter.errors import (
    DataError,
    FlatmeterError,
    NonFinite,
    NotDeterministic,
    NotDifferentiable,
)
from flatmeter.risk.custom_loss import FunctionLoss
from flatmeter.risk.non_finite import raise_non_finite
from flatmeter.risk.preflight import preflight

X, Y = torch.randn(9, 6, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 3


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def with_layer(function):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), Apply(function), nn.Linear(5, 3))


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * 2


def test_a_healthy_network_passes_with_notes(make_risk):
    net = with_layer(torch.relu)
    net[0].bias.requires_grad_(False)
    net.unused = nn.Parameter(torch.ones(3))
    net[2].weight.requires_grad_(True)
    notes = preflight(make_risk(net, X, Y))
    assert any("1 frozen" in n for n in notes)
    assert any("unused" in n for n in notes)


def test_dropout_modules_are_off(make_risk):
    net = nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.5)).train()
    preflight(make_risk(net, X, Y))


def test_functional_dropout_is_named(make_risk):
    with pytest.raises(NotDeterministic, match="first in 1"):
        preflight(make_risk(with_layer(lambda x: F.dropout(x, 0.5)), X, Y))


def test_a_buffer_that_changes_is_named(make_risk):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return x

    net = nn.Sequential(nn.Linear(6, 3), Counting())
    with pytest.raises(NotDeterministic, match=r"1\.calls"):
        preflight(make_risk(net, X, Y))


def test_no_second_derivative_is_said_before_an_hour_is_lost(make_risk):
    with pytest.raises(NotDifferentiable, match="only once: Once"):
        preflight(make_risk(with_layer(Once.apply), X, Y))


def test_the_operator_without_a_derivative_is_named(make_risk):
    with pytest.raises(NotDifferentiable, match="igamma"):
        preflight(make_risk(with_layer(lambda x: torch.igamma(x.abs(), torch.ones_like(x))), X, Y))


def test_the_first_layer_that_is_not_finite_is_named(make_risk):
    net = with_layer(lambda x: torch.log(x - 1e9))
    with pytest.raises(NonFinite, match=r"samples 0 to .*layer '1'"):
        preflight(make_risk(net, X, Y))


def test_the_first_batch_that_is_not_finite_is_named(make_risk):
    bad = X.clone()
    bad[7] = 1e30
    net = with_layer(lambda x: torch.exp(x.abs()))
    with pytest.raises(NonFinite, match=r"samples 6 to 8, .*layer '1'"):
        raise_non_finite(make_risk(net, bad, Y, batch_size=3))


def test_parameters_that_are_not_finite(make_risk):
    net = with_layer(torch.relu)
    with torch.no_grad():
        net[2].weight[0, 0] = float("nan")
    with pytest.raises(NonFinite, match=r"2\.weight"):
        preflight(make_risk(net, X, Y))


def test_a_fixed_parameter_that_is_not_finite(make_risk):
    net = with_layer(torch.relu)
    with torch.no_grad():
        net[0].bias[1] = float("inf")
    net[0].bias.requires_grad_(False)
    with pytest.raises(NonFinite, match=r"0\.bias"):
        preflight(make_risk(net, X, Y))


def test_a_buffer_that_is_not_a_number(make_risk):
    net = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))
    net[1].running_mean[0] = float("nan")
    with pytest.raises(NonFinite, match=r"1\.running_mean"):
        preflight(make_risk(net, X, Y))


def test_a_mask_of_infinities_is_not_blamed(make_risk):
    net = with_layer(lambda x: torch.log(x - 1e9))
    net.register_buffer("mask", torch.tensor([-torch.inf]))
    with pytest.raises(NonFinite, match="layer '1'"):
        preflight(make_risk(net, X, Y))


def test_an_overflow_of_float32_says_what_has_room(make_risk):
    net = with_layer(torch.relu)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1e30)
    with pytest.raises(NonFinite, match=r"samples 0 to .*layer '2'") as caught:
        preflight(make_risk(net, X, Y, dtype=torch.float32))
    assert "--dtype float64" in caught.value.hint
    preflight(make_risk(net, X, Y))


def test_inputs_of_the_wrong_shape(make_risk):
    with pytest.raises(DataError, match=r"inputs of shape \[9, 4\]"):
        preflight(make_risk(with_layer(torch.relu), X[:, :4], Y))


def test_labels_out_of_range_in_a_later_batch(make_risk):
    y = Y.clone()
    y[8] = 3
    with pytest.raises(DataError, match="labels run from"):
        preflight(make_risk(with_layer(torch.relu), X, y, batch_size=2))


def test_samples_that_interact_are_refused(make_risk):
    net = with_layer(lambda h: h - h.mean(0, keepdim=True))
    with pytest.raises(FlatmeterError, match="other samples"):
        preflight(make_risk(net, X, Y))


def test_a_loss_that_is_no_mean_is_refused(make_risk):
    loss = FunctionLoss(lambda z, y: F.cross_entropy(z, y) ** 2, "squared")
    with pytest.raises(FlatmeterError, match="not the mean"):
        preflight(make_risk(with_layer(torch.relu), X, Y, loss=loss))


def test_outputs_that_do_not_count_samples(make_risk):
    net = nn.Sequential(nn.Linear(6, 3), Apply(lambda z: z.mean(0, keepdim=True)))
    with pytest.raises(DataError, match="count samples"):
        preflight(make_risk(net, X, Y))


def test_a_network_that_takes_no_sample_alone_is_refused(make_risk):
    def several(h):
        return F.batch_norm(h, None, None, training=True)

    with pytest.raises(FlatmeterError, match="not one alone") as caught:
        preflight(make_risk(with_layer(several), X, Y))
    assert "PyTorch's own batch-norm layers" in caught.value.hint


@pytest.mark.parametrize("bn", ["eval", "batch"])
def test_a_batch_norm_without_statistics_beside_one_with_them(make_risk, bn):
    norms = nn.BatchNorm1d(5), nn.BatchNorm1d(5, track_running_stats=False)
    net = nn.Sequential(nn.Linear(6, 5), norms[0], nn.Linear(5, 5), norms[1], nn.Linear(5, 3))
    preflight(make_risk(net, X, Y, bn=bn))


@pytest.mark.parametrize("loss", ["mse", "bce", "cross_entropy"])
def test_a_single_sample(loss, make_risk):
    y = torch.tensor([1]) if loss == "cross_entropy" else torch.rand(1, 3)
    assert preflight(make_risk(nn.Linear(4, 3), torch.randn(1, 4), y, loss)) is not None


def test_a_gradient_that_is_no_derivative_is_refused(make_risk):
    net = nn.Sequential(nn.Embedding(5, 3, scale_grad_by_freq=True), nn.Flatten(), nn.Linear(6, 3))
    risk = make_risk(net, torch.randint(0, 5, (4, 2)), torch.tensor([0, 1, 2, 0]))
    with pytest.raises(FlatmeterError, match="scale_grad_by_freq"):
        preflight(risk)


def test_a_sparse_gradient_is_refused_with_the_way_out(make_risk):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 3))

        def forward(self, x):
            return F.embedding(x, self.weight, sparse=True).mean(1)

    with pytest.raises(NotDifferentiable, match="sparse") as caught:
        preflight(make_risk(Words(), torch.randint(0, 5, (9, 2)), Y))
    assert "sparse=True" in caught.value.hint


def test_a_loss_that_mixes_samples_only_a_little_is_refused(make_risk):
    def broadcast(z, y):
        # The gathered logits are a column, so that every sample meets every other.
        return F.softplus(1 - z.gather(1, y[:, None]) + z.logsumexp(1)).mean()

    net = nn.Sequential(nn.Linear(6, 3))
    with torch.no_grad():
        net[0].weight *= 0.1
    risk = make_risk(net, X, Y, loss=FunctionLoss(broadcast, "own"))
    with pytest.raises(FlatmeterError, match="not the mean of its samples"):
        preflight(risk)
