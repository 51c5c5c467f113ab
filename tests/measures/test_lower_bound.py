import math

import pytest
import torch

from flatmeter.estimate import Why
from flatmeter.measures.lower_bound import hidden_by_rounding, spread, verdict


def test_spread_of_the_two_best():
    assert spread([1.0, 4.0, 3.0]) == pytest.approx(0.25)
    assert spread([2.0]) == math.inf
    assert spread([0.0, 0.0]) == 0.0


def test_rounding_hides_small_changes_of_a_large_loss():
    assert hidden_by_rounding(1e-6, 1.0, torch.float32)
    assert not hidden_by_rounding(1e-6, 1.0, torch.float64)
    assert not hidden_by_rounding(1e-9, 1e-8, torch.float32)


def test_verdicts_in_their_order():
    good = {"hidden": False, "settled": True, "apart": 0.01, "agreement": 0.2}
    assert verdict(**good) is Why.LOWER_BOUND
    assert verdict(**{**good, "apart": 0.5}) is Why.SPREAD
    assert verdict(**{**good, "apart": 0.5, "settled": False}) is Why.BUDGET
    assert verdict(**{**good, "settled": False, "hidden": True}) is Why.PRECISION
