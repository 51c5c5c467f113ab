"""Ghost traces do not depend on how many columns run together, nor on the size of numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flatmeter.curvature import column_passes, ghost_rules
from flatmeter.curvature.ghost import eligible, exact_traces


def images(make_risk, **options):
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4)),
        *(nn.Conv2d(4, 8, 3, stride=2, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 6)),
    )
    return make_risk(net, torch.randn(9, 2, 6, 6), torch.arange(9) % 6, **options)


def traces(risk):
    found = exact_traces(risk, eligible(risk).names)
    return torch.tensor([found[n] for n in risk.space.names], dtype=torch.float64)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
@pytest.mark.parametrize("cached", [1, 2**12, 2**30])
def test_chunks_of_columns_change_rounding_only(chunk, cached, make_risk, monkeypatch):
    expected = traces(images(make_risk))
    monkeypatch.setattr(column_passes, "CACHED", cached)
    monkeypatch.setitem(ghost_rules.FORMED, "cpu", cached)
    risk = images(make_risk)
    assert risk.memory.halve("columns", 2 * chunk)
    torch.testing.assert_close(traces(risk), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [1e-25, 1e12])
def test_norms_hold_where_squares_leave_the_range_of_float32(size, make_risk):
    risk = images(make_risk, dtype=torch.float32)
    (x, y), *_ = risk.batches()
    z, calls = column_passes._watched(risk, x, eligible(risk).names)
    columns = risk.loss.factor(z.detach(), y, range(2))
    for call, deltas in column_passes._pull(z, calls, columns):
        plain = ghost_rules.squared_norms(call, deltas)
        scaled = ghost_rules.squared_norms(call, deltas * size)
        for name, norms in plain.items():
            torch.testing.assert_close(scaled[name], norms * size**2, rtol=1e-5, atol=0)
