"""Rules made wrong on purpose: what they invent is dropped, and the operator is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flatmeter.symmetry import channel_rules, operators
from flatmeter.symmetry.find import find_group


def group_of(net, x):
    return find_group(net, x, [n for n, _ in net.named_parameters()])


@pytest.fixture
def gelu_passes_scales_on(monkeypatch):
    monkeypatch.setattr(operators, "POINTWISE", operators.POINTWISE | {"gelu"})


def wrong_in_the_middle():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6)),
        nn.Sequential(nn.Dropout(0.5), nn.GELU()),
        *(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)),
    ).eval()


@pytest.mark.usefixtures("gelu_passes_scales_on")
def test_the_symmetry_is_left_out_and_the_way_to_the_operator_named():
    group = group_of(wrong_in_the_middle(), torch.randn(3, 4))
    assert [g.words for g in group.generators] == [
        "0.weight, 0.bias up; 2.weight down",
        "4.weight, 4.bias up; 6.weight down",
    ]
    assert group.error < 1e-12
    (note,) = [note for note in group.notes if "“" in note]
    assert "“2.weight, 2.bias up; 4.weight down”, so it is left out" in note
    assert note.endswith("2.weight → linear → dropout → gelu in 3.1")


@pytest.mark.usefixtures("gelu_passes_scales_on")
def test_the_scales_of_other_channels_are_kept():
    group = group_of(wrong_in_the_middle(), torch.randn(3, 4))
    assert group.channels.count - 1 == 5 + 4
    (note,) = [note for note in group.notes if "channels" in note]
    assert "rule of gelu" in note
    assert "linear → dropout → gelu in 3.1" in note


@pytest.mark.usefixtures("gelu_passes_scales_on")
def test_biases_without_effect_do_not_look_wrong():
    norm = nn.BatchNorm1d(5, track_running_stats=False)
    net = nn.Sequential(nn.Linear(4, 5), norm, nn.GELU(), nn.Linear(5, 3))
    group = group_of(net, torch.randn(8, 4))
    assert [g.words for g in group.generators] == ["0.weight alone", "0.bias alone"]
    assert any("1.weight → batch_norm → gelu in 2" in note for note in group.notes)
    # Five rows before the norm, and their biases.
    assert group.channels.count - 1 == 10


def test_a_rule_of_channels_alone_may_be_wrong(monkeypatch):
    rules = ((frozenset({"softmax"}), channel_rules._pointwise), *channel_rules._RULES)
    monkeypatch.setattr(channel_rules, "_RULES", rules)
    net = nn.Sequential(nn.Linear(4, 5), nn.Softmax(1), nn.Linear(5, 3))
    group = group_of(net, torch.randn(3, 4))
    assert group.dim == 0
    assert group.channels.count == 1
    (note,) = group.notes
    assert "the rule of softmax for single channels (0.weight → linear → softmax in 1)" in note


def test_what_is_wrong_without_an_operator_to_blame_is_left_out_whole(monkeypatch):
    """A bias said to be without effect has one: every operator does what its rule says."""
    monkeypatch.setattr("flatmeter.symmetry.null._is_null", lambda *args: True)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    group = group_of(net, torch.randn(3, 4))
    assert group.dim == 0 or all("bias alone" not in g.words for g in group.generators)
    assert group.channels.count == 1
    assert any("so none is used" in note for note in group.notes)
