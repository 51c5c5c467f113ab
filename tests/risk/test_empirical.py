"""The risk: values, gradients, batches, modes, and what must stay untouched."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatmeter.curvature.products import HessianOperator
from flatmeter.errors import DataError, NotApplicable
from flatmeter.risk.custom_loss import FunctionLoss
from flatmeter.risk.evaluation import evaluate
from flatmeter.risk.preflight import preflight


def conv_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(48, 4),
    )


X, Y = torch.randn(11, 1, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(11) % 4


def test_value_gradient_and_evaluation(make_risk):
    net = conv_net().double().eval()
    loss = F.cross_entropy(net(X.double()), Y)
    loss.backward()
    gradient = torch.cat([p.grad.reshape(-1) for p in net.parameters()])
    risk = make_risk(conv_net(), X, Y, batch_size=4)
    value, ours = risk.value_and_gradient()
    assert value == pytest.approx(loss.item(), rel=1e-13)
    torch.testing.assert_close(ours, gradient)
    seen = evaluate(risk)
    assert seen.loss == pytest.approx(loss.item(), rel=1e-13)
    assert seen.accuracy == pytest.approx(float((net(X.double()).argmax(1) == Y).double().mean()))
    assert seen.n == 11


def test_ragged_batches_are_weighted_by_size(make_risk):
    values = [make_risk(conv_net(), X, Y, batch_size=b).value() for b in (1, 4, 10, 11, 100)]
    assert max(values) - min(values) < 1e-14


def test_batch_statistics_do_not_depend_on_the_batch_size(make_risk):
    def build(**options):
        return make_risk(conv_net(), X, Y, bn="batch", **options)

    parts = [len(x) for x, _ in build(bn_batch=4).batches()]
    assert sorted(parts) == [3, 4, 4]  # no tiny last batch
    assert build(batch_size=2).value() == build(batch_size=11).value()
    net = conv_net().double().train()
    net[3].eval()
    expected = F.cross_entropy(net(X.double()), Y).item()
    assert build().value() == pytest.approx(expected, rel=1e-12)
    assert build().value() != pytest.approx(make_risk(conv_net(), X, Y).value(), rel=1e-3)


def test_the_users_network_is_untouched(make_risk):
    net = conv_net().train()
    before = copy.deepcopy(net.state_dict())
    for bn in ("eval", "batch"):
        risk = make_risk(net, X, Y, bn=bn, dtype=torch.float32)
        buffers = copy.deepcopy(dict(risk.module.named_buffers()))
        risk.value_and_gradient()
        evaluate(risk)
        for name, buffer in risk.module.named_buffers():
            assert torch.equal(buffer, buffers[name])
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_batch_norm_modes_are_named(make_risk):
    assert make_risk(nn.Sequential(nn.Flatten(), nn.Linear(36, 4)), X, Y, bn="batch").bn is None
    assert make_risk(conv_net(), X, Y).bn == "eval"
    net = conv_net()
    net[1] = nn.BatchNorm2d(3, track_running_stats=False)
    assert make_risk(net, X, Y, bn="eval").bn == "batch"  # it has no stored statistics


def test_a_batch_norm_without_statistics_beside_one_with_them(make_risk):
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5), nn.BatchNorm1d(5, track_running_stats=False)
    ).double()
    net[1].running_mean.normal_()
    x, y = torch.randn(10, 4).double(), torch.arange(10) % 5
    risk = make_risk(net, x, y, bn_batch=5, batch_size=3)
    assert risk.bn == "eval"
    assert risk.samples_interact
    net.eval()
    halves = [F.cross_entropy(net(x[i : i + 5]), y[i : i + 5]) for i in (0, 5)]
    assert risk.value() == pytest.approx(float(sum(halves).detach()) / 2)


def test_weight_decay(make_risk):
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    plain, decayed = make_risk(net, X, Y), make_risk(net, X, Y, weight_decay=0.2)
    theta = plain.theta
    assert decayed.value() == pytest.approx(plain.value() + 0.1 * float(theta @ theta))
    torch.testing.assert_close(decayed.gradient(), plain.gradient() + 0.2 * theta)
    assert decayed.without_weight_decay().value() == plain.value()
    assert evaluate(decayed).loss == pytest.approx(plain.value())


def test_wrapped_outputs(make_risk):
    class Wrapped(nn.Module):
        def __init__(self, wrap):
            super().__init__()
            self.net, self.wrap = nn.Linear(36, 4), wrap

        def forward(self, x):
            return self.wrap(self.net(x.flatten(1)))

    plain = make_risk(Wrapped(lambda z: z), X, Y).value()

    def value(wrap):
        torch.manual_seed(0)
        net = Wrapped(wrap)
        return make_risk(net, X, Y).value(), make_risk(
            Wrapped.__call__ and net.net, X.flatten(1), Y
        ).value()

    for wrap in (lambda z: {"logits": z}, lambda z: (z, None)):
        wrapped, direct = value(wrap)
        assert wrapped == direct
    assert plain > 0
    with pytest.raises(DataError, match="not a tensor"):
        make_risk(Wrapped(lambda z: "text"), X, Y).value()


def test_nothing_to_train_is_refused(make_risk):
    net = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(DataError, match="no trainable parameter"):
        make_risk(net, torch.zeros(2, 2), torch.zeros(2).long())


def test_accuracy_means_nothing_where_a_batch_has_none(make_risk):
    labels = FunctionLoss(F.cross_entropy, "own")
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, -100])
    net = nn.Linear(4, 3)
    assert evaluate(make_risk(net, x, y, loss=labels, batch_size=3)).accuracy is None
    known = evaluate(make_risk(net, x, y % 3, loss=labels, batch_size=4))
    assert known.accuracy == evaluate(make_risk(net, x, y % 3)).accuracy


@pytest.mark.parametrize(("n", "bn_batch", "sizes"), [(3, 2, [3]), (5, 2, [2, 3]), (2, 2, [2])])
def test_no_batch_of_statistics_holds_a_single_sample(n, bn_batch, sizes, make_risk):
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    risk = make_risk(net, torch.randn(n, 4), torch.arange(n) % 3, bn="batch", bn_batch=bn_batch)
    assert sorted(len(x) for x, _ in risk.batches()) == sizes
    risk.value_and_gradient()


def test_statistics_of_one_sample_are_refused(make_risk):
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    with pytest.raises(NotApplicable, match="two samples"):
        make_risk(net, torch.randn(1, 4), torch.tensor([0]), bn="batch")


def test_sparse_embeddings_are_measured_dense(make_risk, dense):
    torch.manual_seed(0)

    class Words(nn.Module):
        def __init__(self, sparse):
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 3, sparse=sparse), nn.Linear(3, 3)

        def forward(self, x):
            return self.head(torch.tanh(self.embed(x)).mean(1))

    sparse, plain = Words(True), Words(False)
    plain.load_state_dict(sparse.state_dict())
    x, y = torch.randint(0, 5, (8, 4)), torch.arange(8) % 3
    risk, expected = make_risk(sparse, x, y), make_risk(plain, x, y)
    preflight(risk)
    torch.testing.assert_close(risk.gradient(), expected.gradient(), rtol=0, atol=0)
    V = torch.eye(risk.space.dim, dtype=torch.float64)
    torch.testing.assert_close(HessianOperator(risk).matmat(V), dense.hessian(expected))
    assert sparse.embed.sparse
