"""The plan's figures against what measures really spend."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flatmeter.measures.context import Context
from flatmeter.measures.expense import Expense, exact_traces
from flatmeter.measures.registry import available
from flatmeter.symmetry.find import find_group


def test_lanczos_holds_a_vector_for_each_product_and_keeps_to_its_cap():
    assert Expense.of_lanczos(20, 65, 200) == Expense(41, 131, 65)
    assert Expense.of_lanczos(20, 65, 30) == Expense(41, 61, 30)
    assert Expense.of_lanczos(40, 80, 200, runs=4).vectors == 20


def test_one_after_the_other():
    both = Expense(1, 2, 7).plus(exact_traces(9))
    assert (both.low, both.high, both.vectors) == (
        pytest.approx(4.33, rel=1e-3),
        pytest.approx(5.33, rel=1e-3),
        7,
    )


@pytest.mark.parametrize("name", available())
def test_usual_cost_is_near_the_real_one(name, make_risk):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10))
    x, y = torch.randn(200, 8), torch.arange(200) % 10
    measure = available()[name]()
    bn = measure.default_bn
    risk = make_risk(net, x, y, bn=bn)
    group = lambda: find_group(risk.module, risk.example_inputs(), risk.space.names)  # noqa: E731
    measure.compute(Context(risk=risk, bn=bn, group=group))
    spent, usual = risk.cost.gradient_equivalents, measure.expense(9)
    assert usual.low / 3 - 2 <= spent <= 2 * usual.high + 3
