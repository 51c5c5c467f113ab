"""No scaling that leaves a network's function as it is goes unfound.

The oracle knows neither graphs nor rules: it is the derivative of the outputs in log-scales, for
many inputs and at several random parameters one below the other. What all of them send to zero is
a symmetry of the network, and not an accident of one place such as a unit that is silent there.
"""

from __future__ import annotations

import math

import pytest
import torch
from known_nets import KNOWN
from torch.func import functional_call, jacrev

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")

POINTS = 8

GAP = 1e3
"""Least ratio between the singular values that count and those that are zero but for rounding."""


@pytest.fixture(scope="module")
def sensitivity():
    """Derivative of a network's outputs in the log-scale of every entry: ``[outputs, P]``."""
    known_already = {}

    def of(known):
        if known.name not in known_already:
            known_already[known.name] = jacobian(known)
        return known_already[known.name]

    return of


def jacobian(known):
    outputs = known.net(known.x)[0].numel()
    samples = 4 + math.ceil(2 * known.space.dim / (POINTS * outputs))
    generator = torch.Generator().manual_seed(2)
    rows = []
    for x in KNOWN[known.name].inputs(POINTS * samples).split(samples):

        def function(flat, x=x):
            return functional_call(known.net, known.space.unflatten(flat), (x,)).flatten()

        flat = torch.randn(known.space.dim, generator=generator).double()
        J = jacrev(function)(flat).detach() * flat
        rows.append(J / J.norm())
    return torch.cat(rows)


def nullity(matrix):
    """Dimension of the null space, by a gap in the singular values that cannot be mistaken."""
    assert matrix.shape[0] >= matrix.shape[1]
    sizes = torch.linalg.svdvals(matrix)
    kept = int((sizes > 1e-11 * sizes[0]).sum())
    dropped = float(sizes[kept]) if kept < len(sizes) else 0.0
    assert float(sizes[kept - 1]) > GAP * dropped
    return len(sizes) - kept


def tensors(known):
    """The tensors that every entry belongs to: ``[P, n]``."""
    return known.space.spread(torch.eye(len(known.space.names), dtype=torch.float64))


def found(known):
    """Log-scales of entries that the group has, of channels and of tensors: ``[P, r]``."""
    one = torch.eye(known.group.channels.count, dtype=torch.float64)[1:]
    channels = [known.group.channels.factors(s).log() for s in one]
    basis = known.space.spread(torch.from_numpy(known.group.basis))
    return torch.cat([*(c[:, None] for c in channels), basis], 1)


def test_no_scale_of_tensors_is_missed(known, sensitivity):
    J = sensitivity(known) @ tensors(known)
    assert nullity(J) == known.group.dim == KNOWN[known.name].tensors


def test_no_scale_of_entries_is_missed(known, sensitivity):
    """Whatever factor each single number is multiplied by: the finest scales there are."""
    J, directions, counted = sensitivity(known), found(known), KNOWN[known.name]
    assert nullity(J) == counted.entries
    assert torch.linalg.matrix_rank(directions) == counted.entries - counted.beyond
    assert (J @ directions).norm() < 1e-12
