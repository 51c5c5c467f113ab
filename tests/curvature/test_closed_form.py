"""The closed form's digits: confident networks, float32, offsets common to all classes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flatmeter.curvature.closed_form import softmax_variances
from flatmeter.curvature.flatness_plan import Computation
from flatmeter.curvature.flatness_run import Options
from flatmeter.curvature.linear_layers import linear_layers
from flatmeter.curvature.relative_flatness import relative_flatness


def pairwise(p, weight):
    """``½ Σ_cc' p_c p_c' (w_ct − w_c't)²``: positive terms alone, so that nothing cancels."""
    gaps = (weight[:, None] - weight[None]).square()
    return 0.5 * torch.einsum("nc,nd,cdt->nt", p, p, gaps)


@pytest.mark.parametrize("confidence", [1.0, 30.0, 300.0])
def test_variance_keeps_its_digits(confidence):
    torch.manual_seed(0)
    z = confidence * torch.randn(20, 7).double()
    weight = torch.randn(7, 5).double()
    variance, diagonal = softmax_variances(z, weight - weight.mean(0), torch.ones(20).double())
    p = torch.softmax(z, 1)
    torch.testing.assert_close(variance, pairwise(p, weight), rtol=1e-12, atol=0)
    others = torch.stack([p[:, [d for d in range(7) if d != c]].sum(1) for c in range(7)], 1)
    torch.testing.assert_close(diagonal, p * others, rtol=1e-12, atol=0)


def head_of(risk):
    (found,) = relative_flatness(risk, linear_layers(risk), Options())[0].values()
    assert found.computation is Computation.CLOSED
    return found


def saturated(make_risk, dtype, scale=60.0):
    """A head whose every prediction is sure and right."""
    torch.manual_seed(0)
    head = nn.Linear(16, 10)
    x = torch.randn(200, 16)
    with torch.no_grad():
        head.weight *= scale
        top = head(x).topk(2, 1)
        keep = top.values[:, 0] - top.values[:, 1] > 20
    return make_risk(head, x[keep], top.indices[keep, 0], dtype=dtype)


def test_a_saturated_head_in_float32(make_risk):
    half, full = (saturated(make_risk, dtype) for dtype in (torch.float32, torch.float64))
    assert half.n > 30
    assert 0 < full.value() < 1e-8
    one, true = head_of(half), head_of(full)
    for quantity in ("trace", "maximum", "normalized", "frobenius_trace"):
        value = getattr(one, quantity).value
        assert value > 0
        # What is lost is lost in float32 logits of size 100, before the closed form sees them.
        assert value == pytest.approx(getattr(true, quantity).value, rel=2e-5)


def test_float32_keeps_5e_7(make_risk):
    torch.manual_seed(0)
    head, x = nn.Linear(64, 10), torch.randn(500, 64).relu()
    with torch.no_grad():
        head.weight *= 3
        head.weight += 2 * torch.randn(64)  # an offset common to all classes
    y = head(x).argmax(1)
    one, true = (
        head_of(make_risk(head, x, y, dtype=dtype)) for dtype in (torch.float32, torch.float64)
    )
    assert one.trace.value == pytest.approx(true.trace.value, rel=5e-7)
    assert one.normalized.value == pytest.approx(true.normalized.value, rel=5e-7)


def test_many_classes(make_risk):
    torch.manual_seed(0)
    head, x = nn.Linear(6, 300), torch.randn(20, 6)
    risk = make_risk(head, x, torch.randint(0, 300, (20,)))
    p = torch.softmax(risk.outputs(risk.theta, x.double()), 1).detach()
    variance = pairwise(p, head.weight.detach().double())
    expected = (x.double().square().sum(1) * variance.sum(1)).mean()
    assert head_of(risk).trace.value == pytest.approx(float(expected), rel=1e-11)
