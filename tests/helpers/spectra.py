"""Symmetric matrices with a spectrum that is known."""

from __future__ import annotations

import torch
from torch import Tensor

from flatmeter.spectral.operator import MatrixOperator


def rotated(eigenvalues: object, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """``Q diag(eigenvalues) Q^T`` with a random orthogonal Q."""
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    size = len(values)
    q, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    matrix = (q * values) @ q.T
    return (0.5 * (matrix + matrix.T)).to(dtype)


def operator(
    eigenvalues: object, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> MatrixOperator:
    """The same as an operator."""
    return MatrixOperator(rotated(eigenvalues, seed=seed, dtype=dtype))
