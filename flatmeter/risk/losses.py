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


def _class_last(z: Tensor) -> Tensor:
    """``[n, K, …]`` as ``[n, …, K]``."""
    return z.movedim(1, -1)


def _stable_softmax(z: Tensor) -> tuple[Tensor, Tensor]:
    """``q = exp(½ log softmax)`` over the last dimension, and the index of its largest entry."""
    q = torch.exp(0.5 * F.log_softmax(z, dim=-1))
    return q, q.argmax(dim=-1, keepdim=True)


class CrossEntropy(Loss):
    """Softmax cross-entropy of logits ``[n, K, …]`` and integer labels ``[n, …]``.

    Args:
        weight: per-class weights; the mean is then the weighted mean, as in PyTorch.
        label_smoothing: as in PyTorch; it leaves Λ unchanged.
        ignore_index: label of the positions that do not count.
    """

    name = "cross_entropy"

    def __init__(
        self,
        weight: list[float] | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
    ) -> None:
        self.weight = weight
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index

    def sample_weights(self, y: Tensor) -> Tensor:
        """ω of every label in float64, 0 where ignored: shaped as ``y``."""
        counted = y != self.ignore_index
        if self.weight is None:
            return counted.double()
        table = torch.tensor(self.weight, dtype=torch.float64, device=y.device)
        return table[y.clamp(min=0, max=len(self.weight) - 1)] * counted

    def per_sample(self, z: Tensor, y: Tensor) -> Tensor:
        """Weighted losses shaped as ``y``."""
        if self.label_smoothing == 0.0 and z.shape[1] > 1:
            return self._of_margins(z, y)
        table = (
            None
            if self.weight is None
            else torch.tensor(self.weight, dtype=z.dtype, device=z.device)
        )
        return F.cross_entropy(
            z,
            y,
            weight=table,
            reduction="none",
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
        )

    def _of_margins(self, z: Tensor, y: Tensor) -> Tensor:
        """``log(1 + Σ_{j≠y} exp(z_j − z_y))``, whose derivatives lose no digits at a tiny loss.

        Those of ``log_softmax`` contain ``p_y − 1``, which rounds to zero in a confident network
        and takes up to half of every eigenvalue with it.
        """
        label = y.masked_fill(y == self.ignore_index, 0).unsqueeze(1)
        margins = (z - z.gather(1, label)).scatter(1, label, -torch.inf)
        losses = F.softplus(torch.logsumexp(margins, 1), threshold=50.0)
        return losses * self.sample_weights(y).to(z.dtype)

    def count(self, y: Tensor) -> float:
        """Total weight of the labels that count."""
        return float(self.sample_weights(y).sum())

    def curvature_weights(self, y: Tensor) -> Tensor:
        """Factor of ``diag(p) − p pᵀ`` in Λ in float64, one per sample: shaped as ``y``."""
        w = self.sample_weights(y)
        if self.weight is None or self.label_smoothing == 0.0:
            return w
        # Smoothing spreads s over all classes, each with its own weight: (1 − s) ω_y + s mean(ω).
        s = self.label_smoothing
        spread = s * sum(self.weight) / len(self.weight)
        return ((1 - s) * w + spread) * (y != self.ignore_index)

    def columns(self, z: Tensor, y: Tensor) -> int:
        """``K − 1`` for each position of a sample."""
        return (z.shape[1] - 1) * _positions(z)

    def factor(self, z: Tensor, y: Tensor, columns: range) -> Tensor:
        """Columns of the factor without cancellation (classes but the largest, per position)."""
        q, c = _stable_softmax(_class_last(z))
        q_c = q.gather(-1, c)
        root = self.curvature_weights(y).sqrt().to(z.dtype).unsqueeze(-1)
        out = []
        for column in columns:
            position, k = divmod(column, z.shape[1] - 1)
            k_index = torch.full_like(c, k) + (c <= k)  # the k-th class that is not c
            q_k = q.gather(-1, k_index)
            s = -q * q * q_k / (1 + q_c)
            s = s.scatter_add(-1, k_index, q_k).scatter(-1, c, -q_c * q_k)
            out.append(_only_position(s * root, position).movedim(-1, 1))
        return torch.stack(out)

    def probe(self, z: Tensor, y: Tensor, signs: Tensor) -> Tensor:
        """``S ε`` in O(K): ``s_j = q_j ε_j (1 − p_j) − p_j Σ_{i≠j} q_i ε_i``, S of size K × K."""
        q, c = _stable_softmax(_class_last(z))
        p = q * q
        e = _class_last(signs) * q
        # 1 − p_c loses every digit for a confident net: sum the other classes instead.
        rest = (1 - p).scatter(-1, c, p.scatter(-1, c, 0.0).sum(-1, keepdim=True))
        total = e.scatter(-1, c, 0.0).sum(-1, keepdim=True)
        others = (total + e.gather(-1, c) - e).scatter(-1, c, total)
        root = self.curvature_weights(y).sqrt().to(z.dtype).unsqueeze(-1)
        return ((e * rest - p * others) * root).movedim(-1, 1)

    def correct(self, z: Tensor, y: Tensor) -> tuple[int, int]:
        """Correct arg-max predictions among the labels that count."""
        counted = y != self.ignore_index
        hits = (z.argmax(dim=1) == y) & counted
        return int(hits.sum()), int(counted.sum())

    def check(self, z: Tensor, y: Tensor) -> None:
        """Labels must be integers in ``[0, K)`` shaped as the outputs without their classes."""
        if z.dim() < 2 or y.shape[1:] != z.shape[2:]:
            raise DataError(
                f"cross-entropy takes logits [n, K, …] and integer labels [n, …], but the network "
                f"gives {in_words(z)} and the targets are {in_words(y)}",
                hint="give the loss that the network was trained with by --loss, or other --data",
            )
        if y.dtype.is_floating_point:
            raise DataError(
                f"cross-entropy takes integer labels, but the targets are {y.dtype}",
                hint="use --loss mse or --loss bce for real-valued targets",
            )
        counted = y[y != self.ignore_index]
        if counted.numel() and (int(counted.min()) < 0 or int(counted.max()) >= z.shape[1]):
            raise DataError(
                f"labels run from {int(counted.min())} to {int(counted.max())}, but the network "
                f"has {'one output' if z.shape[1] == 1 else f'{z.shape[1]} outputs'} (labels 0 to "
                f"{z.shape[1] - 1})",
                hint=_why_labels(int(counted.min()), int(counted.max()), z.shape[1]),
            )


def _why_labels(low: int, high: int, outputs: int) -> str:
    """The likely cause of labels that are out of range, and what to do about it."""
    if outputs == 1:
        return "such a network is trained with --loss bce or mse, and targets of its outputs' shape"
    if low == 1 and high == outputs:
        return "these labels start at 1: subtract 1 from them"
    if low < 0:
        return (
            "no class is counted below 0; where such a label marks what does not count, say so in "
            f"a settings file: loss: {{name: cross_entropy, ignore_index: {low}}}"
        )
    return (
        f"labels up to {high} take a network of at least {high + 1} outputs: check --data, --model "
        "and --model-arg"
    )


def _positions(z: Tensor) -> int:
    """Number of positions (tokens, pixels) of a sample of logits ``[n, K, …]``."""
    return int(z[0, 0].numel())


def _only_position(s: Tensor, position: int) -> Tensor:
    """``[n, …, K]`` with all positions but one set to zero."""
    if s.dim() == 2:
        return s
    flat = s.reshape(s.shape[0], -1, s.shape[-1])
    kept = torch.zeros_like(flat)
    kept[:, position] = flat[:, position]
    return kept.reshape(s.shape)


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
