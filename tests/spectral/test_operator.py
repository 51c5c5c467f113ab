from __future__ import annotations

import torch

from flatmeter.spectral.operator import (
    MatrixOperator,
    Operator,
    Projected,
    Restricted,
    Scaled,
    Shifted,
    Summed,
)


def symmetric(size: int) -> torch.Tensor:
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).double()
    return matrix + matrix.T


def dense(op: Operator) -> torch.Tensor:
    return op.matmat(torch.eye(op.dim, dtype=op.dtype))


def test_scaled_is_d_a_d() -> None:
    A, d = symmetric(6), torch.linspace(0.5, 3.0, 6).double()
    torch.testing.assert_close(dense(Scaled(MatrixOperator(A), d)), d[:, None] * A * d)


def test_projected_is_p_a_p_and_removes_the_basis() -> None:
    A = symmetric(6)
    basis = torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64)).Q.T
    P = torch.eye(6, dtype=torch.float64) - basis.T @ basis
    op = Projected(MatrixOperator(A), basis)
    torch.testing.assert_close(dense(op), P @ A @ P)
    assert float(op.matmat(basis).abs().max()) < 1e-12


def test_shifted_adds_a_multiple_of_the_identity_and_keeps_track_of_definiteness() -> None:
    A = symmetric(6)
    eye = torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(dense(Shifted(MatrixOperator(A), 0.3)), A + 0.3 * eye)
    semidefinite = MatrixOperator(A @ A, psd=True)
    assert Shifted(semidefinite, 0.1).psd
    assert not Shifted(semidefinite, -0.1).psd
    assert Scaled(semidefinite, torch.ones(6)).psd


def test_restricted_is_a_block() -> None:
    A, index = symmetric(6), torch.tensor([0, 2, 5])
    torch.testing.assert_close(dense(Restricted(MatrixOperator(A), index)), A[index][:, index])


def test_summed() -> None:
    A, B = symmetric(6), torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(dense(Summed(MatrixOperator(A), MatrixOperator(B))), A + B)
    assert not Summed(MatrixOperator(A), MatrixOperator(B, psd=True)).psd


def test_all_are_operators() -> None:
    base = MatrixOperator(symmetric(6))
    for op in (
        base,
        Scaled(base, torch.ones(6)),
        Projected(base, torch.eye(6)[:1]),
        Shifted(base, 1),
    ):
        assert isinstance(op, Operator)
        assert op.matmat(torch.zeros(3, 6, dtype=op.dtype)).shape == (3, 6)
