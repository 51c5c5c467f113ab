"""Largest eigenvalues of the Hessian's blocks of single rows, ``λ_max(H_ss)``, for all rows.

Small blocks are formed; of large ones Lanczos sees products only, every row with its own Krylov
space, so that one pass of matrix products serves all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flatmeter.estimate import Estimate, Why
from flatmeter.randomness import derived_generator

#: Most numbers kept of one layer: its inputs and curvature diagonals, or its rows' blocks.
STORED = 2**27
#: Most numbers in the blocks of all rows that are formed instead of left to Lanczos.
FORMED = 2**20
MAX_STEPS = 60


@dataclass(frozen=True)
class RowMaxima:
    """λ_max of every row's block.

    Args:
        values: ``[rows]`` float64.
        bounds: ``[rows]`` certified errors; zero where the blocks were formed.
        steps: Lanczos steps.
        converged: every bound is within the tolerance.
        vectors: ``[rows, m]`` the eigenvectors, of norm one.
    """

    values: Tensor
    bounds: Tensor
    steps: int
    converged: bool
    vectors: Tensor

    def weighted(self, weights: Tensor) -> Estimate:
        """``Σ_s weights_s λ_max(H_ss)`` for non-negative weights ``[rows]``."""
        value = float((weights * self.values).sum())
        if self.steps == 0:
            return Estimate.of_exact(value)
        return Estimate(
            value,
            residual=float((weights * self.bounds).sum()),
            n=self.steps,
            converged=self.converged,
            why=Why.RESIDUAL if self.converged else Why.BUDGET,
        )


def formed_maxima(blocks: Tensor) -> RowMaxima:
    """From the blocks themselves, ``[rows, m, m]``."""
    values, vectors = torch.linalg.eigh(blocks)
    top = values[:, -1]
    return RowMaxima(top, torch.zeros_like(top), 0, True, vectors[:, :, -1])


def factored_maxima(
    inputs: Tensor,
    diagonal: Tensor,
    *,
    seed: int,
    rtol: float,
    total: Callable[[Tensor], None] = lambda part: None,
) -> RowMaxima:
    """For blocks ``H_ss = Σ_i diagonal_is φ_i φ_iᵀ``.

    Args:
        inputs: ``Φ [N, m]`` float64.
        diagonal: ``[N, rows]`` float64, of any sign.
        seed: of the starts.
        rtol: relative tolerance.
        total: adds up, in place, what several processes make of their own samples.
    """
    m, rows = inputs.shape[1], diagonal.shape[1]
    if rows * m * m <= FORMED:
        blocks = inputs.new_zeros(rows, m, m)
        for s in range(rows):
            blocks[s] = (diagonal[:, s : s + 1] * inputs).T @ inputs
        total(blocks)
        return formed_maxima(blocks)

    def apply(V: Tensor) -> Tensor:
        out = (diagonal * (inputs @ V.T)).T @ inputs
        total(out)
        return out

    return lanczos_maxima(apply, rows, m, inputs.device, seed, rtol)


def lanczos_maxima(
    apply: Callable[[Tensor], Tensor],
    rows: int,
    m: int,
    device: torch.device,
    seed: int,
    rtol: float,
) -> RowMaxima:
    """Lanczos with full reorthogonalisation, one Krylov space per row, all rows in step.

    A row whose space is exhausted, or whose value is within the tolerance, is settled and keeps
    its value. The errors are those of Kato and Temple: ``min(r, r²/gap)`` with r the residual.

    Args:
        apply: ``V [rows, m] -> [H_ss v_s]``, shaped alike, float64.
        rows: their number.
        m: size of a block.
        device: of the vectors.
        seed: of the starts.
        rtol: relative tolerance of every row's value.
    """
    generator = derived_generator(seed, "row eigenvalues")
    start = torch.randn(rows, m, dtype=torch.float64, generator=generator).to(device)
    basis = [start / start.norm(dim=1, keepdim=True)]
    alphas: list[Tensor] = []
    betas: list[Tensor] = []
    values = torch.zeros(rows, dtype=torch.float64, device=device)
    bounds = torch.full_like(values, torch.inf)
    settled = torch.zeros(rows, dtype=torch.bool, device=device)
    weights = torch.zeros(rows, MAX_STEPS, dtype=torch.float64, device=device)
    while not settled.all() and len(alphas) < min(m, MAX_STEPS):
        w = apply(basis[-1])
        alphas.append((w * basis[-1]).sum(1))
        space = torch.stack(basis, 1)
        for _ in range(2):
            w = w - ((w.unsqueeze(1) @ space.transpose(1, 2)) @ space).squeeze(1)
        betas.append(w.norm(dim=1))
        ritz, error, top = _largest(alphas, betas, whole=len(alphas) == m)
        fresh = torch.nn.functional.pad(top, (0, MAX_STEPS - len(alphas)))
        weights = torch.where(settled.unsqueeze(1), weights, fresh)
        values = torch.where(settled, values, ritz)
        bounds = torch.where(settled, bounds, error)
        size = torch.stack([*alphas, *betas[:-1]]).abs().amax(0)
        settled |= (bounds <= rtol * values.abs()) | (betas[-1] <= 1e-13 * size)
        basis.append(w / betas[-1].masked_fill(settled, torch.inf).unsqueeze(1))
    steps = len(alphas)
    vectors = (weights[:, None, :steps] @ torch.stack(basis[:steps], 1)).squeeze(1)
    return RowMaxima(values, bounds, steps, bool(settled.all()), vectors)


def _largest(
    alphas: list[Tensor], betas: list[Tensor], *, whole: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Largest Ritz value of every row, its certified error, and its vector in the basis."""
    k = len(alphas)
    T = torch.diag_embed(torch.stack(alphas, 1))
    if k > 1:
        off = torch.diag_embed(torch.stack(betas[:-1], 1), offset=1)
        T = T + off + off.transpose(1, 2)
    values, vectors = torch.linalg.eigh(T)
    top, vector = values[:, -1], vectors[:, :, -1]
    if whole:
        return top, torch.zeros_like(top), vector
    residuals = betas[-1].unsqueeze(1) * vectors[:, -1].abs()
    residual = residuals[:, -1]
    if k == 1:
        return top, residual, vector
    # The next eigenvalue lies above its Ritz value, by how much is not certain: half of the gap.
    gap = (top - values[:, -2] - residuals[:, -2]).clamp_min(0) / 2
    bound = torch.where(gap > 0, torch.minimum(residual, residual**2 / gap), residual)
    return top, bound, vector
