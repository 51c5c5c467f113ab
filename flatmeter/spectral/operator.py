"""The one thing that solvers see: a symmetric linear map applied to blocks of vectors."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


def rounding(dtype: torch.dtype) -> float:
    """Least relative error to expect of a curvature product, 6e-6 in float32.

    Relative to the spectral radius; products of small networks were off by up to 11 ε.
    """
    return 50 * float(torch.finfo(dtype).eps)


@runtime_checkable
class Operator(Protocol):
    """A symmetric linear map on ``[P]``.

    Attributes:
        dim: P, the dimension.
        dtype: dtype of the vectors it takes and returns.
        device: where they live.
        psd: certified positive semi-definite.
    """

    dim: int
    dtype: torch.dtype
    device: torch.device
    psd: bool

    @property
    def noise(self) -> float:
        """Relative rounding error to expect of one product, of the spectral radius."""
        ...

    def matmat(self, V: Tensor) -> Tensor:
        """Apply to every row: ``[k, P] -> [k, P]``, one vector per row."""
        ...


class MatrixOperator:
    """A dense symmetric matrix as an operator (for tests and small reduced problems)."""

    def __init__(self, matrix: Tensor, *, psd: bool = False) -> None:
        self.matrix = matrix
        self.dim = matrix.shape[0]
        self.dtype = matrix.dtype
        self.device = matrix.device
        self.psd = psd
        self.noise = rounding(self.dtype)

    def matmat(self, V: Tensor) -> Tensor:
        """Rows of ``V [k, P]`` times the matrix."""
        return V @ self.matrix


class Scaled:
    """``x -> D A D x`` with a diagonal ``D``.

    Args:
        base: the operator A.
        scale: ``[P]``, the diagonal of D.
    """

    def __init__(self, base: Operator, scale: Tensor) -> None:
        self.base = base
        self.scale = scale.to(base.dtype)
        self.dim, self.dtype, self.device = base.dim, base.dtype, base.device
        self.psd = base.psd

    @property
    def noise(self) -> float:
        """The base's."""
        return self.base.noise

    def matmat(self, V: Tensor) -> Tensor:
        """``[k, P] -> [k, P]``."""
        return self.base.matmat(V * self.scale) * self.scale


class Projected:
    """``x -> P A P x`` with P the orthogonal projection that removes the span of ``basis``.

    Args:
        base: the operator A.
        basis: ``[r, P]`` with orthonormal rows.
    """

    def __init__(self, base: Operator, basis: Tensor) -> None:
        self.base = base
        self.basis = basis.to(base.dtype)
        self.dim, self.dtype, self.device = base.dim, base.dtype, base.device
        self.psd = base.psd

    @property
    def noise(self) -> float:
        """The base's."""
        return self.base.noise

    def project(self, V: Tensor) -> Tensor:
        """Remove the components of every row of ``V [k, P]`` in the span of the basis."""
        return V - (V @ self.basis.T) @ self.basis

    def matmat(self, V: Tensor) -> Tensor:
        """``[k, P] -> [k, P]``."""
        return self.project(self.base.matmat(self.project(V)))


class Shifted:
    """``x -> (A + c I) x`` (weight decay adds its coefficient to a Hessian).

    Args:
        base: the operator A.
        shift: c.
    """

    def __init__(self, base: Operator, shift: float) -> None:
        self.base = base
        self.shift = shift
        self.dim, self.dtype, self.device = base.dim, base.dtype, base.device
        self.psd = base.psd and shift >= 0

    @property
    def noise(self) -> float:
        """The base's."""
        return self.base.noise

    def matmat(self, V: Tensor) -> Tensor:
        """``[k, P] -> [k, P]``."""
        return self.base.matmat(V) + self.shift * V


class Restricted:
    """The block of A on some coordinates: ``x -> (A x̄)[index]``, x̄ being x padded with zeros.

    Args:
        base: the operator A on ``[P]``.
        index: ``[r]`` the coordinates kept, as integers.
    """

    def __init__(self, base: Operator, index: Tensor) -> None:
        self.base = base
        self.index = index.to(base.device)
        self.dim, self.dtype, self.device = len(index), base.dtype, base.device
        self.psd = base.psd

    @property
    def noise(self) -> float:
        """The base's."""
        return self.base.noise

    def matmat(self, V: Tensor) -> Tensor:
        """``[k, r] -> [k, r]``."""
        padded = V.new_zeros(len(V), self.base.dim)
        padded[:, self.index] = V
        return self.base.matmat(padded)[:, self.index]


class Summed:
    """``x -> A x + B x``.

    Args:
        first: the operator A.
        second: the operator B on the same space.
    """

    def __init__(self, first: Operator, second: Operator) -> None:
        self.first, self.second = first, second
        self.dim, self.dtype, self.device = first.dim, first.dtype, first.device
        self.psd = first.psd and second.psd

    @property
    def noise(self) -> float:
        """The larger one."""
        return max(self.first.noise, self.second.noise)

    def matmat(self, V: Tensor) -> Tensor:
        """``[k, P] -> [k, P]``."""
        return self.first.matmat(V) + self.second.matmat(V)
