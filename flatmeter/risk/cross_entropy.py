"""Cross-entropy in a form that keeps its digits where the network is confident."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flatmeter.errors import DataError
from flatmeter.risk.losses import Loss, in_words
from flatmeter.risk.margins import margin_loss, softmax_product


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
        """By margins, whose derivatives lose no digits at a tiny loss."""
        # Where the label does not count, the margins to the largest logit are finite.
        label = torch.where(y == self.ignore_index, z.detach().argmax(1), y).unsqueeze(-1)
        losses = margin_loss(_class_last(z), label)
        return losses * self.sample_weights(y).to(z.dtype)

    def curvature_product(self, z: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """``Λ v`` in closed form: ``z`` and ``v`` shaped alike, as is the result."""
        product = softmax_product(_class_last(z.detach()), _class_last(v))
        weights = self.curvature_weights(y).to(z.dtype).unsqueeze(-1)
        return (product * weights).movedim(-1, 1)

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
        logits = _class_last(z)
        n, classes, count = len(z), z.shape[1], len(columns)
        wanted = torch.tensor(columns, device=z.device)
        position = torch.div(wanted, classes - 1, rounding_mode="floor")
        q, c = _stable_softmax(logits)
        root = self.curvature_weights(y).sqrt().to(z.dtype)
        # For each column the one position where it is not zero: [c, n, K].
        q, c, root = (
            t.reshape(n, -1, width).transpose(0, 1)
            for t, width in ((q, classes), (c, 1), (root, 1))
        )
        if len(q) > 1:
            q, c, root = q[position], c[position], root[position]
        k = (wanted % (classes - 1)).reshape(-1, 1, 1)
        k = k + (c <= k)  # the k-th class that is not c
        q_c, q_k = q.gather(-1, c), q.expand(count, -1, -1).gather(-1, k)
        rows = (q * q * root).neg() * (q_k / (1 + q_c))
        rows.scatter_add_(-1, k, q_k * root)
        rows.scatter_(-1, c.expand(count, -1, -1), -(q_c * root) * q_k)
        if _positions(z) == 1:
            return rows.reshape(count, *logits.shape).movedim(-1, 2)
        out = z.new_zeros(count, n, _positions(z), classes)
        out[torch.arange(count, device=z.device), :, position] = rows
        return out.reshape(count, *logits.shape).movedim(-1, 2)

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
