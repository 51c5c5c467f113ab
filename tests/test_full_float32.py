"""Shortcuts of float32 are off while measuring, and as they were afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import flatmeter
from flatmeter import Estimate, Measure, Measurement
from flatmeter.full_float32 import full_float32


def settings():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("allowed", [True, False])
def test_off_within_and_restored_after(allowed):
    before = settings()
    torch.backends.cudnn.allow_tf32 = allowed
    with full_float32():
        assert settings() == (False, False)
    assert settings() == (before[0], allowed)
    torch.backends.cudnn.allow_tf32 = before[1]


def test_measures_run_without_them():
    seen = []

    class Look(Measure):
        name = "look"

        def compute(self, context):
            seen.append(settings())
            return Measurement({"value": Estimate.of_exact(0.0)})

    flatmeter.measure(nn.Linear(2, 2), Look, data=(torch.randn(4, 2), torch.tensor([0, 1, 0, 1])))
    assert seen == [(False, False)]
    assert settings()[1]
