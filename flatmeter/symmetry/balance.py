"""Every channel rescaled by itself: a matrix-balancing problem, solved by Osborne's sweeps.

An entry that leaves channel j for channel i weighs ``M_ij exp(−2 (s_i − s_j))``. The smallest sum
over s is that of the balanced matrix, in which what enters a channel equals what leaves it. Only
entries on a cycle of channels hold one another up: all others can be scaled to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from flatmeter.symmetry.channel_scales import ChannelScales

MAX_SWEEPS = 20_000
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Balance:
    """The infimum of the sum over all channel scales.

    Args:
        value: the infimum; where the sweeps ended early, from above.
        log_scales: s by channel identifier, 0 for the identifier 0 that cannot move.
        attained: nothing had to be scaled to nothing.
        sweeps: sweeps over all channels.
        imbalance: largest difference between what enters and what leaves a channel, as a part of
            the sum: the certificate.
        held: which entries are part of the value, ``[P]``; the others are scaled to nothing.
    """

    value: float
    log_scales: np.ndarray
    attained: bool
    sweeps: int
    imbalance: float
    held: np.ndarray


def balance(
    diagonal: np.ndarray, channels: ChannelScales, *, tolerance: float = TOLERANCE
) -> Balance:
    """Minimise ``Σ_p diagonal_p exp(−2 (s[plus_p] − s[minus_p]))`` over s with ``s[0] = 0``.

    Args:
        diagonal: of the curvature, ``[P]``, not negative.
        channels: the scale that every entry gains and the one that it loses.
        tolerance: on the imbalance.

    Returns:
        The balanced sum and its scales.
    """
    weights = np.asarray(diagonal, dtype=np.float64)
    plus, minus, count = channels.plus.numpy(), channels.minus.numpy(), channels.count
    doubled = bool((plus < 0).any() or (minus < 0).any())
    M = _doubled(weights, plus, minus, count) if doubled else _matrix(weights, plus, minus, count)
    plus, minus = _node(plus, count), _node(minus, count)
    constant = float(M.diagonal().sum())
    M.setdiag(0.0)
    M.eliminate_zeros()
    M, label = _cycles(M)
    held = (label[plus] == label[minus]) & (weights > 0)
    attained = bool(held[weights > 0].all())
    s, sweeps, imbalance = _osborne(M, constant, tolerance)
    entries = M.tocoo()
    rows, columns = entries.coords
    value = constant + float(np.sum(entries.data * np.exp(-2.0 * (s[rows] - s[columns]))))
    s = s - s[0]
    if doubled:
        s = 0.5 * (s[:count] - s[_node(-np.arange(count), count)])
    return Balance(value, s, attained, sweeps, imbalance, held)


def _matrix(weights: np.ndarray, rows: np.ndarray, columns: np.ndarray, size: int) -> csr_array:
    return coo_array((weights, (rows, columns)), shape=(size, size)).tocsr()


def _doubled(weights: np.ndarray, plus: np.ndarray, minus: np.ndarray, count: int) -> csr_array:
    """With a channel of its own for the opposite of every scale, which shares the entries.

    The sum is convex and does not change when every channel and its opposite change places with
    both signs turned, so that at a minimum they are opposite.
    """
    rows = np.concatenate([_node(plus, count), _node(-minus, count)])
    columns = np.concatenate([_node(minus, count), _node(-plus, count)])
    return _matrix(np.concatenate([weights, weights]) / 2, rows, columns, 2 * count - 1)


def _node(ids: np.ndarray, count: int) -> np.ndarray:
    """The channel of an identifier; those of opposites follow all others."""
    return np.where(ids < 0, count - 1 - ids, ids)


def _cycles(M: csr_array) -> tuple[csr_array, np.ndarray]:
    """The entries that lie on a cycle, and which channels are on one together: ``[count]``."""
    _, label = connected_components(M, directed=True, connection="strong")
    entries = M.tocoo()
    rows, columns = entries.coords
    held = label[rows] == label[columns]
    kept = coo_array((entries.data[held], (rows[held], columns[held])), shape=M.shape).tocsr()
    return kept, label


def _osborne(M: csr_array, constant: float, tolerance: float) -> tuple[np.ndarray, int, float]:
    """Cyclic sweeps: a channel's two sums are made equal in turn, which is exact in one unknown.

    Channels that share no entry do not feel one another and are moved at once.
    """
    classes = _colours(M)
    out_of = [M[c] for c in classes]
    transposed = M.T.tocsr()
    into = [transposed[c] for c in classes]
    x = np.ones(M.shape[0])
    sweeps, imbalance = 0, np.inf if classes else 0.0
    while imbalance > tolerance and sweeps < MAX_SWEEPS:
        sweeps, largest, total = sweeps + 1, 0.0, constant
        for c, rows, columns in zip(classes, out_of, into, strict=True):
            gained, lost = (rows @ x) / x[c], (columns @ (1.0 / x)) * x[c]
            largest = max(largest, float(np.abs(gained - lost).max()))
            total += float(gained.sum() + lost.sum()) / 2.0
            x[c] *= np.sqrt(gained / lost)
        imbalance = largest / total
    return 0.5 * np.log(x), sweeps, imbalance


def _colours(M: csr_array) -> list[np.ndarray]:
    """Sets of channels without an entry between two of the same set, in which all of them move."""
    near = (M + M.T).tocsr()
    colour = np.full(M.shape[0], -1)
    for i in np.flatnonzero(np.diff(near.indptr)):
        taken = set(colour[near.indices[near.indptr[i] : near.indptr[i + 1]]].tolist())
        colour[i] = next(k for k in range(len(taken) + 1) if k not in taken)
    return [np.flatnonzero(colour == k) for k in range(colour.max(initial=-1) + 1)]
