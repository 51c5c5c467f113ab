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

MAX_SWEEPS = 20_000


@dataclass(frozen=True)
class Balance:
    """The infimum of the sum over all channel scales.

    Args:
        value: the infimum.
        log_scales: s by channel identifier, 0 for the identifier 0 that cannot move.
        attained: nothing had to be scaled to nothing.
        sweeps: sweeps over all channels.
        imbalance: largest relative difference between a channel's sums: the certificate.
    """

    value: float
    log_scales: np.ndarray
    attained: bool
    sweeps: int
    imbalance: float


def balance(
    weights: np.ndarray,
    plus: np.ndarray,
    minus: np.ndarray,
    count: int,
    *,
    tolerance: float = 1e-12,
) -> Balance:
    """Minimise ``Σ_p weights_p exp(−2 (s[plus_p] − s[minus_p]))`` over s with ``s[0] = 0``.

    Args:
        weights: ``[P]``, not negative.
        plus: channel that every entry leads to, ``[P]``.
        minus: channel that it comes from, ``[P]``.
        count: number of identifiers, 0 included.
        tolerance: on the imbalance of every channel.

    Returns:
        The balanced sum and its scales.
    """
    weights = np.asarray(weights, dtype=np.float64)
    moved = plus != minus
    constant = float(weights[~moved].sum())
    M = coo_array((weights[moved], (plus[moved], minus[moved])), shape=(count, count)).tocsr()
    M.eliminate_zeros()
    M, attained = _cycles(M)
    s, sweeps, imbalance = _osborne(M, tolerance)
    entries = M.tocoo()
    rows, columns = entries.coords
    value = constant + float(np.sum(entries.data * np.exp(-2.0 * (s[rows] - s[columns]))))
    return Balance(value, s - s[0], attained, sweeps, imbalance)


def _cycles(M: csr_array) -> tuple[csr_array, bool]:
    """The entries that lie on a cycle, and whether those are all."""
    _, label = connected_components(M, directed=True, connection="strong")
    entries = M.tocoo()
    rows, columns = entries.coords
    held = label[rows] == label[columns]
    kept = coo_array((entries.data[held], (rows[held], columns[held])), shape=M.shape).tocsr()
    return kept, bool(held.all())


def _osborne(M: csr_array, tolerance: float) -> tuple[np.ndarray, int, float]:
    """Cyclic sweeps: each channel's sums are made equal in turn, which is exact in one unknown."""
    by_row, by_column = M.tocsr(), M.tocsc()
    busy = np.flatnonzero(np.diff(by_row.indptr))
    s = np.zeros(M.shape[0])
    imbalance = 0.0
    for sweep in range(MAX_SWEEPS):
        imbalance = 0.0
        for i in busy:
            row = slice(by_row.indptr[i], by_row.indptr[i + 1])
            column = slice(by_column.indptr[i], by_column.indptr[i + 1])
            out = by_row.data[row] @ np.exp(-2.0 * (s[i] - s[by_row.indices[row]]))
            into = by_column.data[column] @ np.exp(-2.0 * (s[by_column.indices[column]] - s[i]))
            imbalance = max(imbalance, abs(out - into) / (out + into))
            s[i] += 0.25 * np.log(out / into)
        if imbalance <= tolerance:
            return s, sweep + 1, imbalance
    return s, MAX_SWEEPS, imbalance
