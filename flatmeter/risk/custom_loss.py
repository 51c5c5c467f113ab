"""A user's own loss function, and the table that turns a loss's name into a loss."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from flatmeter.errors import DataError, NotApplicable, UsageError
from flatmeter.importing import load_object
from flatmeter.risk.causal_lm import CausalLM
from flatmeter.risk.cross_entropy import CrossEntropy
from flatmeter.risk.losses import BinaryCrossEntropy, Loss, MeanSquaredError, in_words

LOSSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "mse": MeanSquaredError,
    "bce": BinaryCrossEntropy,
    "causal_lm": CausalLM,
}


class FunctionLoss(Loss):
    """A function ``fn(outputs, targets)`` that gives the batch mean, or one loss per sample.

    Its curvature in the outputs is taken by differentiating twice, sample by sample.

    Args:
        function: differentiable twice in its first argument; samples must not interact in it.
        spec: where it came from, for messages.
    """

    name = "function"
    convex = False

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], spec: str) -> None:
        self.function = function
        self.spec = spec

    def per_sample(self, z: Tensor, y: Tensor) -> Tensor:
        """``[n]``, or ``[1]`` holding the sum where the function gives the mean."""
        value = self.function(z, y)
        return value * z.shape[0] if value.dim() == 0 else value

    def count(self, y: Tensor) -> float:
        """Number of samples."""
        return float(y.shape[0])

    def columns(self, z: Tensor, y: Tensor) -> int:
        """One for each output of a sample."""
        return int(z[0].numel())

    def _roots(self, z: Tensor, y: Tensor) -> Tensor:
        """``V √λ`` of every sample's Λ: ``[n, K, K]``, columns last."""
        n, k = z.shape[0], int(z[0].numel())
        rows = []
        for j in range(k):
            unit = z.new_zeros(n, k)
            unit[:, j] = 1.0
            rows.append(self.curvature_product(z, y, unit.reshape(z.shape)).reshape(n, k))
        values, vectors = torch.linalg.eigh(torch.stack(rows, 1).double())
        if float(values.min()) < -1e-6 * float(values.abs().max()):
            raise NotApplicable(
                f"the loss {self.spec} is not convex in the network's outputs, so the Gauss-Newton "
                "matrix is not positive semi-definite",
                hint="use a measure of the Hessian instead",
            )
        roots: Tensor = vectors * values.clamp(min=0).sqrt().unsqueeze(1)
        return roots.to(z.dtype)

    def factor(self, z: Tensor, y: Tensor, columns: range) -> Tensor:
        """Scaled eigenvectors of Λ."""
        roots = self._roots(z, y)[:, :, list(columns)]
        return roots.permute(2, 0, 1).reshape(len(columns), *z.shape)

    def probe(self, z: Tensor, y: Tensor, signs: Tensor) -> Tensor:
        """Scaled eigenvectors of Λ summed with random signs."""
        mixed = torch.einsum("nkj,nj->nk", self._roots(z, y), signs.reshape(z.shape[0], -1))
        return mixed.reshape(z.shape)

    def correct(self, z: Tensor, y: Tensor) -> tuple[int, int] | None:
        """How often the largest output is the label's, where targets are labels of the outputs."""
        if not _labels_of(z, y):
            return None
        return int((z.argmax(dim=1) == y).sum()), len(y)

    def remarks(self, z: Tensor, y: Tensor) -> tuple[str, ...]:
        """Why there is no accuracy, where there is none."""
        if _labels_of(z, y):
            return ()
        kind = str(y.dtype).removeprefix("torch.")
        return (
            "no accuracy: beside a loss of your own it is known for outputs [n, K] and labels from "
            f"0 to K - 1, but the outputs are {in_words(z)} and the targets {kind} {in_words(y)}",
        )

    def check(self, z: Tensor, y: Tensor) -> None:
        """The function must give a scalar or one finite loss per sample, for every target."""
        for part in y.split(len(z)):
            self._try(z[: len(part)], part.to(z.device))

    def _try(self, z: Tensor, y: Tensor) -> None:
        try:
            value = self.function(z, y)
        except Exception as error:
            raise DataError(
                f"the loss {self.spec} failed on outputs {list(z.shape)} and targets "
                f"{list(y.shape)}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(value, Tensor) or value.shape not in ((), (z.shape[0],)):
            shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise DataError(
                f"the loss {self.spec} must return the batch mean or one loss per sample, not "
                f"{shape}"
            )


def _labels_of(z: Tensor, y: Tensor) -> bool:
    """Targets are labels ``[n]`` of the classes that outputs ``[n, K]`` have."""
    if z.dim() != 2 or z.shape[1] < 2 or y.dim() != 1 or y.is_floating_point():
        return False
    return int(y.min()) >= 0 and int(y.max()) < z.shape[1]


def load_loss(spec: str | Mapping[str, Any]) -> Loss:
    """The loss that a name, a mapping ``{name: …, option: …}`` or an import path stands for.

    Args:
        spec: ``cross_entropy`` (or ``cross-entropy``), ``mse``, ``bce``, ``causal_lm``,
            ``pkg.mod:fn``, ``file.py:fn``, or a mapping with ``name`` and the loss's own options.

    Raises:
        UsageError: unknown name, option or import path.
    """
    options = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
    name = str(options.pop("name", ""))
    if ":" in name:
        if options:
            raise UsageError(f"a loss function takes no options, got {', '.join(options)}")
        return FunctionLoss(load_object(name, where="--loss"), name)
    kind = LOSSES.get(name.replace("-", "_").lower())
    if kind is None:
        close = difflib.get_close_matches(name, LOSSES, n=1, cutoff=0.4)
        nearest = f"did you mean {close[0]}? " if close else ""
        raise UsageError(
            f"unknown loss {name!r}",
            where="--loss",
            hint=f"{nearest}known: {', '.join(LOSSES)}, pkg.mod:function, file.py:function",
        )
    try:
        return kind(**options)
    except TypeError as error:
        raise UsageError(f"{name} does not take these options: {error}", where="loss") from error
