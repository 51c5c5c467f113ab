"""Balancing against closed forms, a general-purpose optimiser and the layer-wise minimum."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize as scipy_minimize

from flatmeter.symmetry.balance import balance as balance_channels
from flatmeter.symmetry.channel_scales import ChannelScales, Scale
from flatmeter.symmetry.minimise import minimise


def balance(weights, plus, minus, count):
    plus, minus = torch.as_tensor(plus), torch.as_tensor(minus)
    channels = ChannelScales((Scale(plus, minus),), (plus.shape,), count, (False,))
    return balance_channels(weights, channels)


def test_one_hidden_neuron():
    # w2 relu(w1 x): what enters the neuron against what leaves it.
    found = balance(np.array([9.0, 4.0]), np.array([1, 0]), np.array([0, 1]), 2)
    assert found.value == pytest.approx(2 * np.sqrt(36.0))
    assert found.attained
    assert np.exp(2 * found.log_scales[1]) == pytest.approx(9 / 6)


def test_one_hidden_layer_has_a_closed_form():
    rng = np.random.default_rng(0)
    into, out = rng.uniform(0.1, 10, (5, 3)), rng.uniform(0.1, 10, (2, 5))
    ids = np.arange(1, 6)
    plus = np.concatenate([np.repeat(ids, 3), np.zeros(10, dtype=int)])
    minus = np.concatenate([np.zeros(15, dtype=int), np.tile(ids, 2)])
    found = balance(np.concatenate([into.ravel(), out.ravel()]), plus, minus, 6)
    expected = 2 * np.sqrt(into.sum(1) * out.sum(0)).sum()
    assert found.value == pytest.approx(expected, rel=1e-12)
    assert found.value <= 2 * np.sqrt(into.sum() * out.sum())


def deep(rng, widths=(3, 4, 5, 2)):
    """Entries of a deep chain with biases: channel identifiers and layer-wise scales."""
    plus, minus, layer = [], [], []
    ids = [np.zeros(widths[0], dtype=int)]
    start = 1
    for width in widths[1:-1]:
        ids.append(np.arange(start, start + width))
        start += width
    ids.append(np.zeros(widths[-1], dtype=int))
    for depth, (before, after) in enumerate(pairwise(ids)):
        plus += [np.repeat(after, len(before)), after]
        minus += [np.tile(before, len(after)), np.zeros(len(after), dtype=int)]
        layer += [np.full(len(before) * len(after), 2 * depth), np.full(len(after), 2 * depth + 1)]
    plus, minus, layer = (np.concatenate(x) for x in (plus, minus, layer))
    return plus, minus, layer, start, rng.uniform(0.01, 10, len(plus))


def test_a_deep_chain_against_a_general_optimiser():
    plus, minus, _, count, weights = deep(np.random.default_rng(1))

    def loss(s):
        s = np.concatenate([[0.0], s])
        return np.log(np.sum(weights * np.exp(-2 * (s[plus] - s[minus]))))

    reference = scipy_minimize(loss, np.zeros(count - 1), tol=1e-14)
    found = balance(weights, plus, minus, count)
    assert found.value == pytest.approx(np.exp(reference.fun), rel=1e-8)
    assert found.value <= np.exp(reference.fun) * (1 + 1e-10)
    assert found.imbalance <= 1e-10


def test_never_larger_than_the_layer_wise_minimum():
    for seed in range(5):
        plus, minus, layer, count, weights = deep(np.random.default_rng(seed))
        traces = np.bincount(layer, weights)
        E = np.zeros((6, 2))
        E[0, 0] = E[1, 0] = E[2, 1] = E[3, 1] = 1
        E[2, 0] = E[4, 1] = -1
        assert balance(weights, plus, minus, count).value <= minimise(traces, E).value


def test_rescaling_does_not_change_it():
    rng = np.random.default_rng(3)
    plus, minus, _, count, weights = deep(rng)
    s = np.concatenate([[0.0], rng.normal(size=count - 1, scale=3)])
    moved = weights * np.exp(-2 * (s[plus] - s[minus]))
    assert balance(moved, plus, minus, count).value == pytest.approx(
        balance(weights, plus, minus, count).value, rel=1e-10
    )


def test_what_is_on_no_cycle_falls_to_nothing():
    # Channel 1 is fed but feeds nothing: a row before batch statistics.
    found = balance(
        np.array([5.0, 2.0, 3.0, 3.0]), np.array([1, 0, 2, 0]), np.array([0, 0, 0, 2]), 3
    )
    assert found.value == pytest.approx(2.0 + 2 * 3.0)
    assert not found.attained


def test_nothing_to_balance():
    found = balance(np.array([1.0, 2.0]), np.zeros(2, dtype=int), np.zeros(2, dtype=int), 1)
    assert found.value == 3.0
    assert found.attained


def test_opposite_scales_against_a_general_optimiser():
    """Identifiers with a sign, as queries and keys have them."""
    rng = np.random.default_rng(4)
    plus, minus = rng.integers(-5, 6, (2, 60))
    weights = rng.uniform(0.1, 5, 60)

    def loss(s):
        s = np.concatenate([[0.0], s])
        step = np.sign(plus) * s[np.abs(plus)] - np.sign(minus) * s[np.abs(minus)]
        return np.log(np.sum(weights * np.exp(-2 * step)))

    reference = scipy_minimize(loss, np.zeros(5), tol=1e-14)
    found = balance(weights, plus, minus, 6)
    assert found.value == pytest.approx(np.exp(reference.fun), rel=1e-8)
    assert loss(found.log_scales[1:]) == pytest.approx(np.log(found.value), rel=1e-8)
    assert found.attained


def test_one_query_and_one_key():
    # q k with q growing as k shrinks, and nothing else.
    found = balance(np.array([9.0, 4.0]), np.array([1, -1]), np.array([0, 0]), 2)
    assert found.value == pytest.approx(2 * np.sqrt(36.0))
    assert np.exp(2 * found.log_scales[1]) == pytest.approx(9 / 6)
