from __future__ import annotations

import torch

from flatmeter.spectral import basis as basis_module
from flatmeter.spectral.basis import Basis


def filled(rows: int, dim: int) -> tuple[Basis, torch.Tensor]:
    vectors = torch.linalg.qr(torch.randn(dim, rows, dtype=torch.float64)).Q.T
    basis = Basis(dim, torch.float64, torch.device("cpu"), capacity=rows)
    for vector in vectors:
        basis.append(vector)
    return basis, vectors


def test_rows_come_back_across_chunks() -> None:
    basis, vectors = filled(37, 50)
    assert basis.count == 37
    torch.testing.assert_close(torch.stack([basis[i] for i in range(37)]), vectors)


def test_orthogonalise_leaves_nothing_in_the_span() -> None:
    basis, vectors = filled(37, 50)
    inside = vectors.T @ torch.randn(37, dtype=torch.float64)
    outside = basis.orthogonalise(1e6 * inside + torch.randn(50, dtype=torch.float64))
    assert float((vectors @ outside).abs().max()) < 1e-12 * 1e6


def test_combine_and_compress(monkeypatch) -> None:
    monkeypatch.setattr(basis_module, "COLUMNS", 7)
    basis, vectors = filled(37, 50)
    weights = torch.linalg.qr(torch.randn(37, 20, dtype=torch.float64)).Q
    torch.testing.assert_close(basis.combine(weights), weights.T @ vectors)
    basis.compress(weights)
    assert basis.count == 20
    torch.testing.assert_close(torch.stack([basis[i] for i in range(20)]), weights.T @ vectors)
