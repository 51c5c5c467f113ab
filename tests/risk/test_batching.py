"""The default size of micro-batches follows memory, within its bounds."""

from __future__ import annotations

import torch
from torch import nn

from flatmeter.risk import batching


def size(monkeypatch, free, width):
    monkeypatch.setattr(batching, "free_memory", lambda device: free)
    net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2))
    size = batching.graph_bytes(net, torch.zeros(4, 4), torch.zeros(0))
    return batching.room_for_graphs(size, torch.device("cpu"))


def test_half_the_memory_has_half_the_room(monkeypatch):
    large, small = size(monkeypatch, 2**28, 100_000), size(monkeypatch, 2**27, 100_000)
    assert small > 1
    assert abs(large - 2 * small) <= 1


def test_there_is_always_one_sample(monkeypatch):
    assert size(monkeypatch, 1, 10) == 1


def test_free_memory_is_a_plausible_number():
    assert 2**20 < batching.free_memory(torch.device("cpu")) < 2**50


def test_graphs_of_all_samples_are_held_where_they_fit_and_no_batch_size_was_asked_for(
    make_risk, monkeypatch
):
    monkeypatch.setattr(batching, "free_memory", lambda device: 2**20)
    x, y = torch.randn(2000, 4), torch.zeros(2000, dtype=torch.long)
    few, many, given = (
        make_risk(nn.Sequential(nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 2)), x[:n], y[:n], **kw)
        for n, kw in ((20, {}), (2000, {}), (20, {"batch_size": 20}))
    )
    assert few.graphs_fit
    assert few.batch_size == many.batch_size < batching.MAX_BATCH
    assert not many.graphs_fit
    assert not given.graphs_fit


def test_neither_the_weights_nor_the_other_samples_count_for_each(make_risk):
    x, y = torch.randn(1000, 4), torch.zeros(1000, dtype=torch.long)
    net = nn.Sequential(nn.Linear(4, 1000), nn.Tanh(), nn.Linear(1000, 2))
    # Inputs and the tanh's outputs, in float64.
    assert make_risk(net, x, y).graph_bytes == 1000 * batching.DERIVATIVE_FACTOR * 8 * (4 + 1000)
