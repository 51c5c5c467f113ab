"""Losses: a weighted sum over samples, how many there are, and a factor of the curvature in z.

Every loss is ``L = Σ_i ω_i ℓ(z_i, y_i) / Σ_i ω_i``. Its curvature in the network's outputs,
``Λ = ∂²ℓ/∂z²``, is given as columns S with ``S Sᵀ = Λ`` that lose no digits at a tiny loss.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from flatmeter.errors import DataError


class Loss(ABC):
    """A loss over fixed samples.

    Class attributes:
        name: as on the command line.
        convex: Λ is positive semi-definite, so that the Gauss-Newton matrix is.
    """

    name: ClassVar[str]
    convex: ClassVar[bool] = True

    @abstractmethod
    def per_sample(self, z: Tensor, y: Tensor) -> Tensor:
        """Weighted losses, one per sample (a token or pixel is a sample): any shape."""

    def total(self, z: Tensor, y: Tensor) -> Tensor:
        """Sum of the weighted losses, accumulated in float64."""
        return self.per_sample(z, y).sum(dtype=torch.float64)

    @abstractmethod
    def count(self, y: Tensor) -> float:
        """Total weight of the samples of a batch; their number where there are no weights."""

    @abstractmethod
    def columns(self, z: Tensor, y: Tensor) -> int:
        """Number of columns of :meth:`factor` for outputs like ``z``."""

    @abstractmethod
    def factor(self, z: Tensor, y: Tensor, columns: range) -> Tensor:
        """Columns of S for every sample, weights included: ``[len(columns), *z.shape]``."""

    @abstractmethod
    def probe(self, z: Tensor, y: Tensor, signs: Tensor) -> Tensor:
        """``S ε`` for Rademacher ``signs`` shaped as ``z``: one random column, shaped as ``z``."""

    def curvature_product(self, z: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """``Λ v`` by differentiating twice: ``z`` and ``v`` shaped alike, as is the result."""
        with torch.enable_grad():
            point = z.detach().requires_grad_()
            (g,) = torch.autograd.grad(self.total(point, y), point, create_graph=True)
            if not g.requires_grad:
                return torch.zeros_like(z)
            (out,) = torch.autograd.grad(g, point, v)
        return out

    def correct(self, z: Tensor, y: Tensor) -> tuple[int, int] | None:
        """Number of correct predictions and of predictions, or ``None`` where it has no meaning."""
        return None

    def remarks(self, z: Tensor, y: Tensor) -> tuple[str, ...]:
        """What people should know of this loss with these outputs and targets."""
        return ()

    @abstractmethod
    def check(self, z: Tensor, y: Tensor) -> None:
        """Refuse outputs and targets that do not belong together.

        Args:
            z: outputs of the first samples.
            y: targets of all samples, on any device.

        Raises:
            DataError: with the shapes, types or labels that do not fit.
        """


def in_words(tensor: Tensor) -> str:
    """Its shape with ``n`` for the number of samples."""
    return f"[{', '.join(['n', *map(str, tensor.shape[1:])])}]"


class _Diagonal(Loss):
    """A loss whose curvature in z is diagonal, averaged over the outputs of a sample."""

    @staticmethod
    def _elements(z: Tensor) -> int:
        return int(z[0].numel())

    @abstractmethod
    def _curvature(self, z: Tensor, y: Tensor) -> Tensor:
        """The diagonal of Λ, shaped as ``z``."""

    def count(self, y: Tensor) -> float:
        """Number of samples."""
        return float(y.shape[0])

    def columns(self, z: Tensor, y: Tensor) -> int:
        """One for each output of a sample."""
        return self._elements(z)

    def factor(self, z: Tensor, y: Tensor, columns: range) -> Tensor:
        """The square root of one diagonal entry each, in its place."""
        root = self._curvature(z, y).sqrt().reshape(z.shape[0], -1)
        s = root.new_zeros(len(columns), *root.shape)
        for i, column in enumerate(columns):
            s[i, :, column] = root[:, column]
        return s.reshape(len(columns), *z.shape)

    def probe(self, z: Tensor, y: Tensor, signs: Tensor) -> Tensor:
        """Square root of the diagonal times the signs."""
        return self._curvature(z, y).sqrt() * signs

    def check(self, z: Tensor, y: Tensor) -> None:
        """Targets must be shaped as the outputs."""
        if z.shape[1:] != y.shape[1:]:
            alike = y[0].numel() == z[0].numel()
            raise DataError(
                f"--loss {self.name} takes targets shaped as the outputs, but the network gives "
                f"{in_words(z)} and the targets are {in_words(y)}",
                hint=f"reshape the targets to {in_words(z)}"
                if alike
                else "use --loss cross_entropy for integer labels, or other --data",
            )


class MeanSquaredError(_Diagonal):
    """Squared error averaged over the outputs of a sample (PyTorch's ``mse_loss``)."""

    name = "mse"

    def per_sample(self, z: Tensor, y: Tensor) -> Tensor:
        """``[n]``."""
        return (z - y.to(z.dtype)).square().reshape(z.shape[0], -1).mean(1)

    def _curvature(self, z: Tensor, y: Tensor) -> Tensor:
        return torch.full_like(z, 2.0 / self._elements(z))


class BinaryCrossEntropy(_Diagonal):
    """Binary cross-entropy of logits, averaged over the outputs of a sample."""

    name = "bce"

    def per_sample(self, z: Tensor, y: Tensor) -> Tensor:
        """``[n]``."""
        y = y.to(z.dtype)
        # PyTorch's own has σ(z) − y as derivative, which rounds to zero in a confident network.
        losses = y * F.softplus(-z, threshold=50.0) + (1 - y) * F.softplus(z, threshold=50.0)
        return losses.reshape(z.shape[0], -1).mean(1)

    def _curvature(self, z: Tensor, y: Tensor) -> Tensor:
        return torch.sigmoid(z) * torch.sigmoid(-z) / self._elements(z)

    def correct(self, z: Tensor, y: Tensor) -> tuple[int, int]:
        """Outputs on the right side of zero."""
        return int(((z > 0) == (y > 0.5)).sum()), int(z.numel())

    def check(self, z: Tensor, y: Tensor) -> None:
        """Targets must be shaped as the outputs and lie in ``[0, 1]``."""
        super().check(z, y)
        if float(y.min()) < 0 or float(y.max()) > 1:
            raise DataError(
                f"--loss bce takes targets in [0, 1], these run from {float(y.min()):g} "
                f"to {float(y.max()):g}"
            )
