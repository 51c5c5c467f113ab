from __future__ import annotations

import torch

from flatmeter.ranks.group import Ranks
from flatmeter.spectral import memory
from flatmeter.spectral.memory import vectors_that_fit
from flatmeter.spectral.operator import MatrixOperator


def test_half_of_what_is_free_or_what_was_given(monkeypatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 2 * 4 * 10 * 7)
    op = MatrixOperator(torch.eye(10))
    assert vectors_that_fit(op, None) == 7
    assert vectors_that_fit(MatrixOperator(torch.eye(10).double()), None) == 3
    assert vectors_that_fit(op, 4 * 10 * 3) == 3


def test_processes_of_a_machine_share_its_memory(monkeypatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 2 * 4 * 10 * 7)
    monkeypatch.setattr(memory, "current", lambda: Ranks(neighbours=2))
    op = MatrixOperator(torch.eye(10))
    assert vectors_that_fit(op, None) == 3
    assert vectors_that_fit(op, 4 * 10 * 3) == 3
