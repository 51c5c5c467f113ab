"""The default size of micro-batches follows memory, within its bounds."""

from __future__ import annotations

import torch
from torch import nn

from flatmeter.risk import batching


def size(monkeypatch, free, width):
    monkeypatch.setattr(batching, "free_memory", lambda device: free)
    net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2))
    return batching.auto_batch_size(net, torch.zeros(4, 4), torch.device("cpu"))


def test_plenty_of_memory_gives_the_largest(monkeypatch):
    assert size(monkeypatch, 2**40, 10) == batching.MAX_BATCH


def test_half_the_memory_gives_half_the_batch(monkeypatch):
    large, small = size(monkeypatch, 2**28, 100_000), size(monkeypatch, 2**27, 100_000)
    assert 1 < small < batching.MAX_BATCH
    assert abs(large - 2 * small) <= 1


def test_there_is_always_one_sample(monkeypatch):
    assert size(monkeypatch, 1, 10) == 1


def test_free_memory_is_a_plausible_number():
    assert 2**20 < batching.free_memory(torch.device("cpu")) < 2**50
