"""As many columns run together as memory has room for, with the same results."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import flatmeter
from flatmeter.curvature import column_passes, flatness_sums, ghost
from flatmeter.curvature.flatness_run import Options
from flatmeter.curvature.flatness_sums import Weighing
from flatmeter.curvature.ghost import eligible, exact_diagonal, exact_traces, probed_traces
from flatmeter.curvature.linear_layers import linear_layers
from flatmeter.curvature.relative_flatness import relative_flatness
from flatmeter.risk import memory_plan


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4)),
        *(nn.Conv2d(4, 8, 3, stride=2, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 6)),
    )


def images(make_risk, **options):
    own = net()
    return make_risk(own, torch.randn(9, 2, 6, 6), torch.arange(9) % 6, **options)


def traces(risk):
    found = exact_traces(risk, eligible(risk).names)
    return torch.tensor([found[n] for n in risk.space.names], dtype=torch.float64)


def test_out_of_memory_halves_the_columns_and_is_remembered(make_risk, monkeypatch):
    expected = traces(images(make_risk))
    risk = images(make_risk, batch_size=4)
    pull, widths = column_passes._pull, []

    def scarce(z, calls, columns):
        widths.append(len(columns))
        if len(columns) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return pull(z, calls, columns)

    monkeypatch.setattr(column_passes, "_pull", scarce)
    torch.testing.assert_close(traces(risk), expected, rtol=1e-12, atol=0)
    # Five columns, halved twice, then one by one in each of three batches.
    assert widths == [5, 2, *[1] * 15]


def test_an_exhausted_memory_ends_it_where_one_column_is_too_much(make_risk, monkeypatch):
    def scarce(z, calls, columns):
        raise torch.OutOfMemoryError("out of memory")

    risk = images(make_risk)
    names = eligible(risk).names
    monkeypatch.setattr(column_passes, "_pull", scarce)
    with pytest.raises(torch.OutOfMemoryError):
        exact_traces(risk, names)


def with_room(columns, make_risk, monkeypatch):
    """A risk where memory has room for so many columns, and the widths of its passes to come."""
    widths, pull = [], column_passes._pull

    def noted(z, calls, columns):
        widths.append(len(columns))
        return pull(z, calls, columns)

    monkeypatch.setattr(column_passes, "_pull", noted)
    bytes_each = 2 * 8 * 9 * (4 * 36 * 2 + 8 * 4 + 6)
    monkeypatch.setattr(memory_plan, "free_memory", lambda device: columns * bytes_each / 0.25)
    return images(make_risk, batch_size=9), widths


def test_less_free_memory_takes_fewer_columns(make_risk, monkeypatch):
    risk, widths = with_room(2.5, make_risk, monkeypatch)
    traces(risk)
    assert widths == [2, 2, 1]


def diagonal(risk):
    return risk.space.flatten(exact_diagonal(risk, eligible(risk).names))


def probed(risk):
    found = probed_traces(risk, eligible(risk).names, range(3, 9), seed=1)
    return torch.stack([torch.from_numpy(found[n]) for n in risk.space.names])


def flatness(risk):
    found, refused = relative_flatness(risk, linear_layers(risk), Options(method="ggn"))
    assert not refused
    return torch.tensor([[f.trace.value, f.maximum.value] for f in found.values()])


def probed_flatness(risk):
    options = Options(method="probe", max_probes=8, rtol=1e-9)
    found, _ = relative_flatness(risk, linear_layers(risk), options)
    return torch.tensor([[f.trace.value, f.trace.stderr] for f in found.values()])


class Scarce:
    """Memory that a function runs out of with more than a column at some of the layers.

    Args:
        of: the function, whose arguments end with cotangents.
        layers: numbers of channels at their outputs.
        enough: columns for which there is room.
    """

    def __init__(self, of, layers, enough=1):
        self.of, self.layers, self.enough = of, layers, enough
        self.failed = 0

    def __call__(self, *args):
        deltas = args[-1]
        if deltas.shape[2] in self.layers and len(deltas) > self.enough:
            self.failed += 1
            raise torch.OutOfMemoryError("out of memory")
        return self.of(*args)


@pytest.mark.parametrize("layers", [{4}, {8}, {6}, {4, 8}, {4, 6, 8}])
@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        (traces, "squared_norms"),
        (diagonal, "squared_gradients"),
        (probed, "squared_norms"),
    ],
)
def test_what_runs_out_of_memory_is_given_fewer_of_the_same_columns(
    layers, wanted, name, make_risk, monkeypatch
):
    expected = wanted(images(make_risk))
    scarce = Scarce(getattr(ghost, name), layers)
    monkeypatch.setattr(ghost, name, scarce)
    torch.testing.assert_close(
        wanted(images(make_risk, batch_size=4)), expected, rtol=1e-12, atol=1e-18
    )
    # Halved twice in the first batch, and remembered in the others.
    assert scarce.failed == 2


@pytest.mark.parametrize("wanted", [flatness, probed_flatness])
def test_relative_flatness_adds_up_every_column_once(wanted, make_risk, monkeypatch):
    expected = wanted(images(make_risk))
    scarce = Scarce(Weighing.of_columns, {2})  # groups
    monkeypatch.setattr(Weighing, "of_columns", lambda *args: scarce(*args))
    found = wanted(images(make_risk, batch_size=4))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-15)
    assert scarce.failed == 2 + (wanted is probed_flatness)


def test_blocks_of_rows_add_up_all_of_a_chunk_or_nothing(make_risk, monkeypatch):
    # One sample at a time, so that memory runs out between the parts of a chunk.
    monkeypatch.setattr(flatness_sums, "GRADIENT_BUDGET", 1)
    expected, einsum, calls = flatness(images(make_risk)), torch.einsum, []

    def scarce(pattern, *operands):
        if pattern == "ngdi,ngdj->gdij" and len(operands[0]) > 1:
            calls.append(len(operands[0]))
            if len(calls) % 3 == 2:
                raise torch.OutOfMemoryError("out of memory")
        return einsum(pattern, *operands)

    monkeypatch.setattr(torch, "einsum", scarce)
    found = flatness(images(make_risk, batch_size=4))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-15)
    assert calls == [5, 5, 2, 2, 2]


def test_random_columns_keep_to_the_room_that_there_is(make_risk, monkeypatch):
    expected = probed(images(make_risk))
    risk, widths = with_room(4.5, make_risk, monkeypatch)
    torch.testing.assert_close(probed(risk), expected, rtol=1e-12, atol=0)
    assert widths == [4, 2]


def measured(monkeypatch, enough):
    """Minimum sharpness where memory has room for so many numbers of cotangents."""
    of = ghost.squared_norms

    def scarce(call, deltas):
        if deltas.shape[0] * deltas.shape[1] > enough:
            raise torch.OutOfMemoryError("out of memory")
        return of(call, deltas)

    torch.manual_seed(1)
    data = torch.randn(9, 2, 6, 6), torch.arange(9) % 6
    with monkeypatch.context() as patched:
        patched.setattr(ghost, "squared_norms", scarce)
        return flatmeter.measure(net(), "minimum_sharpness", data=data, dtype="float64").rows[0]


def test_after_columns_the_batch_is_halved_and_the_last_error_names_what_was_tried(monkeypatch):
    expected = measured(monkeypatch, 1000).value
    assert measured(monkeypatch, 2).value == pytest.approx(expected, rel=1e-12)
    assert measured(monkeypatch, 1).value == pytest.approx(expected, rel=1e-12)
    row = measured(monkeypatch, 0)
    assert row.status == "error"
    for lever in ("one sample", "one vector", "one class", "--batch-size"):
        assert lever in row.message
