from __future__ import annotations

import pytest
import torch
from torch import nn

from flatmeter.measures.context import Context
from flatmeter.measures.gradient_norm import GradientNorm


@pytest.fixture
def case(make_risk):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 4)).double()
    x, y = torch.randn(11, 3).double(), torch.randint(0, 4, (11,))
    loss = nn.functional.cross_entropy(net(x), y)
    loss.backward()
    return net, lambda **options: make_risk(net, x, y, **options)


def measured(risk):
    return GradientNorm().compute(Context(risk=risk, bn=None, group=None))


def test_norm_and_parts_are_those_of_backward(case) -> None:
    net, risk = case
    found = measured(risk())
    gradients = {n: p.grad for n, p in net.named_parameters()}
    for part in found.parts:
        assert part.estimate.value == pytest.approx(float(gradients[part.scope].norm()), rel=1e-12)
    assert [part.scope for part in found.parts] == list(gradients)
    whole = torch.cat([g.flatten() for g in gradients.values()]).norm()
    assert found.headline.value == pytest.approx(float(whole), rel=1e-12)
    assert found.headline.exact


def test_weight_decay_is_part_of_the_gradient(case) -> None:
    net, risk = case
    found = measured(risk(weight_decay=0.3))
    whole = torch.cat([(p.grad + 0.3 * p.detach()).flatten() for p in net.parameters()]).norm()
    assert found.headline.value == pytest.approx(float(whole), rel=1e-12)


def test_batches_change_only_rounding(case) -> None:
    _, risk = case
    one, many = measured(risk()), measured(risk(batch_size=4))
    assert many.headline.value == pytest.approx(one.headline.value, rel=1e-12)
