"""The loss of margins against PyTorch's own in float64, and where that one loses its digits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from flatmeter.risk.margins import margin_loss, softmax_product


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return 3 * torch.randn(6, 4, dtype=torch.float64), torch.tensor([[0], [1], [2], [3], [1], [0]])


def plain(z, label):
    return F.cross_entropy(z, label[:, 0], reduction="none")


def test_values_and_derivatives_are_those_of_cross_entropy(logits):
    z, label = logits
    torch.testing.assert_close(margin_loss(z, label), plain(z, label))

    def third(loss):
        def second(v):
            H = torch.autograd.functional.hessian(
                lambda u: loss(u, label).sum(), v, create_graph=True
            )
            return (H * torch.arange(H.numel()).reshape(H.shape)).sum()

        return torch.autograd.functional.jacobian(second, z)

    def second(loss):
        return torch.autograd.functional.hessian(lambda u: loss(u, label).sum(), z)

    torch.testing.assert_close(second(margin_loss), second(plain))
    torch.testing.assert_close(third(margin_loss), third(plain))


def test_derivatives_by_differences_forwards_backwards_and_mapped(logits):
    z, label = logits
    point = z.clone().requires_grad_()
    options = {"check_forward_ad": True, "check_batched_grad": True}
    assert gradcheck(lambda u: margin_loss(u, label), point, **options)
    assert gradgradcheck(lambda u: margin_loss(u, label), point, check_batched_grad=True)


def test_transforms_of_transforms(logits):
    z, label = logits
    V = torch.randn(3, *z.shape, dtype=torch.float64)

    def products(loss):
        slope = torch.func.grad(lambda u: loss(u, label).sum())
        return torch.func.vmap(lambda v: torch.func.jvp(slope, (z,), (v,))[1])(V)

    torch.testing.assert_close(products(margin_loss), products(plain))


@pytest.mark.parametrize("right", [True, False])
def test_a_confident_network_keeps_its_digits(right):
    # p = (1, e, e²) but for rounding, with e = exp(-60).
    z = torch.tensor([[0.0, -60.0, -120.0]], dtype=torch.float64)
    label = torch.tensor([[0 if right else 1]])
    e = torch.exp(torch.tensor(-60.0, dtype=torch.float64))
    p = torch.stack([torch.ones_like(e), e, e * e])
    point = z.clone().requires_grad_()
    loss = margin_loss(point, label).sum()
    assert loss.item() == pytest.approx(float(e) if right else 60.0, rel=1e-12)
    (slope,) = torch.autograd.grad(loss, point, create_graph=True)
    expected = torch.stack([-(e + e * e), e, e * e] if right else [p[0], p[1] - 1, p[2]])
    torch.testing.assert_close(slope[0], expected, rtol=1e-12, atol=0)
    H = torch.stack(
        [torch.autograd.grad(slope[0, j], point, retain_graph=True)[0][0] for j in range(3)]
    )
    # p_c (1 − p_c) is the sum of the others.
    rest = torch.stack([e + e * e, torch.ones_like(e), torch.ones_like(e)])
    expected = torch.diag(p * rest) - (p[:, None] * p).fill_diagonal_(0)
    torch.testing.assert_close(H, expected, rtol=1e-12, atol=0)


def test_the_product_is_positive_semi_definite_in_float32():
    torch.manual_seed(0)
    z = 30 * torch.randn(200, 10)
    v = torch.randn(200, 10)
    quadratic = (v * softmax_product(z, v)).sum(-1)
    assert bool((quadratic > 0).all())


def test_infinite_margins():
    z = torch.tensor([[1000.0, -1000.0], [-1000.0, 1000.0]], requires_grad=True)
    label = torch.tensor([[0], [0]])
    loss = margin_loss(z, label)
    assert loss.tolist() == [0.0, 2000.0]
    (slope,) = torch.autograd.grad(loss.sum(), z)
    assert slope.tolist() == [[0.0, 0.0], [-1.0, 1.0]]


def test_an_infinite_logit_at_an_ignored_position(make_risk):
    from flatmeter.risk.cross_entropy import CrossEntropy

    z = torch.tensor([[-torch.inf, 0.0, 1.0], [0.5, 1.0, 2.0]], dtype=torch.float64)
    y = torch.tensor([-100, 1])
    loss = CrossEntropy().per_sample(z, y)
    torch.testing.assert_close(loss, F.cross_entropy(z, y, reduction="none"))
