"""Losses against PyTorch's own, and their curvature factors against dense Hessians."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from flatmeter.errors import DataError, NotApplicable, UsageError
from flatmeter.risk.causal_lm import CausalLM
from flatmeter.risk.cross_entropy import CrossEntropy
from flatmeter.risk.custom_loss import FunctionLoss, load_loss
from flatmeter.risk.losses import BinaryCrossEntropy, MeanSquaredError


def dense_curvature(loss, z, y):
    """∂²(Σ ℓ)/∂z² by PyTorch, as [n, K, K] (samples do not interact)."""
    n, k = z.shape[0], z[0].numel()
    hessian = torch.autograd.functional.hessian(
        lambda v: loss.total(v.reshape(z.shape), y), z.reshape(-1)
    ).reshape(n, k, n, k)
    return torch.stack([hessian[i, :, i] for i in range(n)])


def cases():
    torch.manual_seed(0)
    z = 2 * torch.randn(5, 4, dtype=torch.float64)
    labels = torch.tensor([0, 3, 1, 2, 2])
    spatial = torch.randn(2, 3, 2, dtype=torch.float64)
    ignored = torch.tensor([[0, -100], [2, 1]])
    yield "plain", CrossEntropy(), z, labels
    yield "weights", CrossEntropy(weight=[1, 2, 0.5, 3]), z, labels
    yield "smoothing", CrossEntropy(label_smoothing=0.2), z, labels
    yield "both", CrossEntropy([1, 2, 0.5, 3], label_smoothing=0.2), z, labels
    yield "positions", CrossEntropy(), spatial, ignored
    yield "two classes", CrossEntropy(), z[:, :2], labels % 2
    yield "mse", MeanSquaredError(), z, torch.randn_like(z)
    yield "bce", BinaryCrossEntropy(), z, (torch.rand_like(z) > 0.5).double()
    tokens = torch.tensor([[1, 0, -100, 2], [-100, 3, 3, 1]])
    yield "next tokens", CausalLM(), torch.randn(2, 4, 5, dtype=torch.float64), tokens
    own = FunctionLoss(lambda a, b: F.cross_entropy(a, b), "mine")
    yield "function", own, z, labels
    each = FunctionLoss(lambda a, b: ((a - b) ** 4).sum(1), "quartic")
    yield "per sample", each, z, torch.randn_like(z)


CASES = list(cases())


@pytest.mark.parametrize(("loss", "z", "y"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
class TestCurvature:
    def test_the_factor_squares_to_the_hessian(self, loss, z, y):
        n, k = z.shape[0], z[0].numel()
        S = loss.factor(z, y, range(loss.columns(z, y))).reshape(-1, n, k)
        dense = dense_curvature(loss, z, y)
        torch.testing.assert_close(torch.einsum("cnj,cnk->njk", S, S), dense, rtol=1e-9, atol=1e-12)

    def test_part_of_the_columns(self, loss, z, y):
        total = loss.columns(z, y)
        whole = loss.factor(z, y, range(total))
        torch.testing.assert_close(loss.factor(z, y, range(total // 2, total)), whole[total // 2 :])

    def test_random_columns_average_to_the_hessian(self, loss, z, y):
        n, k = z.shape[0], z[0].numel()
        # All sign patterns of each output in turn: the exact expectation of products needs only
        # that S ε is linear in ε, so unit vectors recover S.
        units = torch.eye(n * k, dtype=z.dtype).reshape(n * k, *z.shape)
        columns = torch.stack([loss.probe(z, y, u) for u in units]).reshape(n * k, n, k)
        dense = dense_curvature(loss, z, y)
        torch.testing.assert_close(
            torch.einsum("cnj,cnk->njk", columns, columns), dense, rtol=1e-9, atol=1e-12
        )

    def test_curvature_product(self, loss, z, y):
        v = torch.randn_like(z)
        dense = dense_curvature(loss, z, y)
        expected = torch.einsum("njk,nk->nj", dense, v.reshape(z.shape[0], -1)).reshape(z.shape)
        torch.testing.assert_close(loss.curvature_product(z, y, v), expected)


def test_a_confident_net_keeps_its_digits_in_float32():
    z = torch.tensor([[25.0, 0.0, 1.0], [0.0, 30.0, -2.0]])
    y = torch.tensor([0, 1])
    loss = CrossEntropy()
    S = loss.factor(z, y, range(2)).double()
    # Even float64's p (1 − p) loses digits here: sum the other classes in the closed form.
    p = torch.softmax(z.double(), 1)
    rest = p.scatter(1, y[:, None], 0.0)
    traces = (rest * (1 - rest)).sum(1) + (1 - rest.sum(1)) * rest.sum(1)
    torch.testing.assert_close(S.square().sum((0, 2)), traces, rtol=1e-5, atol=0)
    units = torch.eye(6).reshape(6, 2, 3)
    probed = torch.stack([loss.probe(z, y, u) for u in units]).double().square().sum((0, 2))
    torch.testing.assert_close(probed, traces, rtol=1e-5, atol=0)


def test_values_are_pytorchs():
    torch.manual_seed(1)
    z, y = torch.randn(7, 3).double(), torch.randint(0, 3, (7,))
    weight = [1.0, 2.0, 0.5]
    loss = CrossEntropy(weight, label_smoothing=0.1)
    expected = F.cross_entropy(z, y, torch.tensor(weight).double(), label_smoothing=0.1)
    assert float(loss.total(z, y)) / loss.count(y) == pytest.approx(float(expected), rel=1e-12)
    t = torch.randn(7, 3).double()
    assert float(MeanSquaredError().total(z, t)) / 7 == pytest.approx(float(F.mse_loss(z, t)))


@pytest.mark.parametrize(
    ("loss", "z", "y", "words"),
    [
        (CrossEntropy(), torch.zeros(2, 3), torch.tensor([0, 3]), "labels run from 0 to 3"),
        (CrossEntropy(), torch.zeros(2, 3), torch.tensor([-1, 0]), "labels run from -1 to 0"),
        (CrossEntropy(), torch.zeros(2, 3), torch.zeros(2, 3).long(), r"targets are \[n, 3\]"),
        (CrossEntropy(), torch.zeros(2, 3), torch.zeros(2), "integer labels"),
        (MeanSquaredError(), torch.zeros(2, 3), torch.zeros(2), "shaped as the outputs"),
        (MeanSquaredError(), torch.zeros(2, 1), torch.zeros(2), r"reshape the targets to \[n, 1\]"),
        (BinaryCrossEntropy(), torch.zeros(2), torch.tensor([0.0, 2.0]), r"\[0, 1\]"),
    ],
)
def test_outputs_and_targets_that_do_not_fit_are_refused(loss, z, y, words):
    with pytest.raises(DataError, match=words):
        loss.check(z, y)


@pytest.mark.parametrize(
    ("outputs", "labels", "words"),
    [
        (3, [1, 2, 3], "start at 1"),
        (3, [1, 2, 1], None),
        (3, [1, 2, 9], "at least 10 outputs"),
        (3, [0, 1, 3], "at least 4 outputs"),
        (3, [2, 3, 3], "at least 4 outputs"),
        (3, [-1, 0, 2], "ignore_index: -1"),
        (1, [0, 1, 1], "--loss bce"),
    ],
)
def test_the_cause_of_labels_out_of_range(outputs, labels, words):
    z, y = torch.zeros(3, outputs), torch.tensor(labels)
    if words is None:
        CrossEntropy().check(z, y)
        return
    with pytest.raises(DataError) as caught:
        CrossEntropy().check(z, y)
    assert words in caught.value.hint
    assert ("start at 1" in caught.value.hint) == (words == "start at 1")


def test_labels_of_all_samples_decide_the_cause():
    # The first three alone would be labels that start at 1.
    with pytest.raises(DataError, match="labels run from 0 to 3") as caught:
        CrossEntropy().check(torch.zeros(3, 3), torch.tensor([1, 2, 3, 0]))
    assert "4 outputs" in caught.value.hint


class TestAccuracyBesideAFunction:
    @staticmethod
    def loss():
        return FunctionLoss(lambda z, y: z.square().mean(), "net.py:own")

    def test_labels_of_the_outputs_have_one(self):
        z, y = torch.eye(3), torch.tensor([0, 1, 1])
        assert self.loss().correct(z, y) == (2, 3)
        assert self.loss().remarks(z, y) == ()

    @pytest.mark.parametrize(
        ("z", "y"),
        [
            (torch.eye(3), torch.tensor([0, 1, 3])),
            (torch.eye(3), torch.tensor([-100, 1, 2])),
            (torch.eye(3), torch.tensor([0.0, 1.0, 1.0])),
            (torch.eye(3), torch.zeros(3, 3)),
            (torch.zeros(3, 1), torch.tensor([0, 0, 0])),
            (torch.zeros(3, 4, 5), torch.zeros(3, 5).long()),
        ],
    )
    def test_other_targets_have_none_and_it_is_said(self, z, y):
        assert self.loss().correct(z, y) is None
        (said,) = self.loss().remarks(z, y)
        assert said.startswith("no accuracy")


def test_a_function_is_tried_on_every_target():
    loss = FunctionLoss(F.cross_entropy, "own")
    with pytest.raises(DataError, match="the loss own failed"):
        loss.check(torch.zeros(2, 3), torch.tensor([0, 1, 2, 0, 7]))


def test_a_loss_that_is_not_convex_in_the_outputs_has_no_factor():
    loss = FunctionLoss(lambda z, y: torch.sin(z).sum(1), "sine")
    z = torch.full((2, 3), 1.0, dtype=torch.float64)
    with pytest.raises(NotApplicable, match="not convex"):
        loss.factor(z, torch.zeros(2), range(3))


def test_names():
    assert load_loss("cross-entropy").name == "cross_entropy"
    assert load_loss({"name": "cross_entropy", "label_smoothing": 0.1}).label_smoothing == 0.1
    assert load_loss("torch.nn.functional:cross_entropy").columns(torch.zeros(2, 3), None) == 3
    with pytest.raises(UsageError, match="did you mean cross_entropy"):
        load_loss("crossentropy")
    with pytest.raises(UsageError, match="does not take"):
        load_loss({"name": "mse", "smoothing": 1})
