"""Ghost traces take as many columns at once as memory has room for, with the same result."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flatmeter.curvature import ghost, ghost_rules
from flatmeter.curvature.ghost import eligible, exact_traces
from flatmeter.risk import memory_plan


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
    monkeypatch.setattr(ghost, "CACHED", cached)
    monkeypatch.setitem(ghost_rules.FORMED, "cpu", cached)
    risk = images(make_risk)
    assert risk.memory.retreat_to(chunk)
    torch.testing.assert_close(traces(risk), expected, rtol=1e-12, atol=0)


def test_out_of_memory_halves_the_columns_and_is_remembered(make_risk, monkeypatch):
    expected = traces(images(make_risk))
    risk = images(make_risk, batch_size=4)
    pull, widths = ghost._pull, []

    def scarce(z, calls, columns):
        widths.append(len(columns))
        if len(columns) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return pull(z, calls, columns)

    monkeypatch.setattr(ghost, "_pull", scarce)
    torch.testing.assert_close(traces(risk), expected, rtol=1e-12, atol=0)
    # Five columns, halved twice, then one by one in each of three batches.
    assert widths == [5, 2, *[1] * 15]


def test_an_exhausted_memory_ends_it_where_one_column_is_too_much(make_risk, monkeypatch):
    def scarce(z, calls, columns):
        raise torch.OutOfMemoryError("out of memory")

    risk = images(make_risk)
    names = eligible(risk).names
    monkeypatch.setattr(ghost, "_pull", scarce)
    with pytest.raises(torch.OutOfMemoryError):
        exact_traces(risk, names)


def test_less_free_memory_takes_fewer_columns(make_risk, monkeypatch):
    widths = []
    pull = ghost._pull

    def noted(z, calls, columns):
        widths.append(len(columns))
        return pull(z, calls, columns)

    monkeypatch.setattr(ghost, "_pull", noted)
    risk = images(make_risk, batch_size=9)
    numbers = 9 * (4 * 36 * 2 + 8 * 4 + 6)
    monkeypatch.setattr(memory_plan, "free_memory", lambda device: 2.5 * 2 * 8 * numbers / 0.25)
    traces(risk)
    assert widths == [2, 2, 1]


@pytest.mark.parametrize("size", [1e-25, 1e12])
def test_norms_hold_where_squares_leave_the_range_of_float32(size, make_risk):
    risk = images(make_risk, dtype=torch.float32)
    (x, y), *_ = risk.batches()
    z, calls = ghost._watched(risk, x, eligible(risk).names)
    columns = risk.loss.factor(z.detach(), y, range(2))
    for call, deltas in ghost._pull(z, calls, columns):
        plain = ghost_rules.squared_norms(call, deltas)
        scaled = ghost_rules.squared_norms(call, deltas * size)
        for name, norms in plain.items():
            torch.testing.assert_close(scaled[name], norms * size**2, rtol=1e-5, atol=0)
