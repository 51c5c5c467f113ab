"""The loss as a pure function of the parameters, over fixed data in a fixed order."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from flatmeter.data.dataset import Dataset
from flatmeter.errors import DataError, NotApplicable
from flatmeter.ranks.group import ALONE, current
from flatmeter.risk.appetite import Appetite, appetite, once
from flatmeter.risk.architecture import architecture
from flatmeter.risk.attention import math_attention
from flatmeter.risk.batch_norm import (
    BNMode,
    private_copy,
    settled_mode,
    takes_batch_statistics,
)
from flatmeter.risk.cost import FORWARD, GRADIENT, Cost
from flatmeter.risk.feed import Feed
from flatmeter.risk.logits import logits_of
from flatmeter.risk.losses import Loss
from flatmeter.risk.memory_plan import MemoryPlan
from flatmeter.risk.space import ParameterSpace
from flatmeter.risk.split import Split
from flatmeter.risk.weight_norm import composed_weight_norm, has_weight_norm
from flatmeter.strategy import Strategy

DEFAULT_BN_BATCH = 256


class EmpiricalRisk:
    """``L(θ) = Σ_i ω_i ℓ(f_θ(x_i), y_i) / Σ_i ω_i + (λ/2) ‖θ‖²`` over fixed data.

    Evaluated on a private copy of the network, so that the caller's parameters, buffers and mode
    are never touched. Micro-batches are summed in float64 with their true weight, so that their
    size changes the result by rounding only. With batch statistics the samples of a batch interact
    and the batches are part of the definition: ``ceil(N / bn_batch)`` parts of nearly equal size,
    whatever ``batch_size`` says. Where several processes share the measurement, each goes over its
    own part of the data, and whoever adds up over batches adds up over ``ranks`` too.

    Args:
        model: the network.
        loss: the loss.
        data: inputs ``[N, …]`` and targets.
        bn: batch-norm's mode, ``eval`` (stored statistics) or ``batch``.
        batch_size: samples per micro-batch, ``None`` for what the memory allows.
        bn_batch: samples per statistics batch in mode ``batch``.
        device: where it is computed.
        dtype: of parameters and floating-point inputs.
        forward_dtype: of the network's own arithmetic (``torch.bfloat16``), by default ``dtype``;
            the loss, vectors and sums are computed in ``dtype`` all the same.
        weight_decay: λ.
        strategy: how curvature products are computed; changes no number.

    Attributes:
        module: the private copy.
        space: the trainable parameters.
        theta: the trained point, ``[P]``.
        samples_interact: batch statistics make the samples of a batch depend on one another.
        normalizer: Σ ω_i.
        cost: what was spent so far; the first process's is that of all.
        ranks: the processes that share the data.
        memory: how much products take at once.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Dataset,
        *,
        bn: BNMode = "eval",
        batch_size: int | None = None,
        bn_batch: int = DEFAULT_BN_BATCH,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        forward_dtype: torch.dtype | None = None,
        weight_decay: float = 0.0,
        strategy: Strategy | Literal["auto"] = "auto",
    ) -> None:
        self.device, self.dtype, self.forward_dtype = torch.device(device), dtype, forward_dtype
        self.loss, self.data, self.weight_decay = loss, data, weight_decay
        self.module = private_copy(model, bn=bn, device=self.device, dtype=dtype)
        self.bn = settled_mode(self.module, bn)
        self.samples_interact = takes_batch_statistics(self.module)
        self.bn_batch = bn_batch
        self._weight_norm = has_weight_norm(self.module)
        self.space = ParameterSpace.from_module(self.module)
        if self.space.dim == 0:
            raise DataError("the network has no trainable parameter", hint="are all frozen?")
        named = dict(self.module.named_parameters())
        self.theta = self.space.flatten({n: named[n].detach() for n in self.space.names})
        self.n = len(data)
        if self.samples_interact and self.n < 2:
            raise NotApplicable(
                "batch-norm with the statistics of the batch needs at least two samples",
                hint="give more --data, or measure with --bn eval",
            )
        self.normalizer = float(loss.count(data.targets))
        if self.normalizer <= 0:
            raise DataError("no target counts towards the loss: their weights sum to zero")
        self.cost = Cost()
        self.ranks = current()
        self._batch_size = batch_size
        self.strategy = strategy
        self._feed = Feed(data, self.device, dtype)
        sharing = self.ranks.neighbours if self.device.type == "cpu" else 1
        self.memory = MemoryPlan(self._appetite, self.device, sharing)

    @property
    def batch_size(self) -> int:
        """Samples per micro-batch; settled at first use where none was given."""
        return self._batch_size or self.memory.batch

    @property
    def graphs_fit(self) -> bool:
        """The graphs of all micro-batches may be held at once.

        Never where a batch size was given: that is how people bound the memory.
        """
        return self._batch_size is None and self.memory.keeps_graphs(self._largest_batch, self.held)

    @property
    def product_bytes(self) -> int:
        """Most bytes that a product takes for the samples, as planned."""
        held = self.held if self.graphs_fit else 0
        return self.memory.appetite.of(self._largest_batch, held)

    def vectors_at_once(self, k: int) -> int:
        """How many of ``k`` vectors may run against a micro-batch together."""
        return self.memory.vectors_at_once(self._largest_batch, k)

    @property
    def _largest_batch(self) -> int:
        return min(self.bn_batch if self.samples_interact else self.batch_size, self.n)

    def _appetite(self, budget: int) -> Appetite:
        """What products take, measured on the first samples."""

        def total(point: Tensor, n: int) -> Tensor:
            return self.total(point, *self._feed.batch(0, n))

        def measured() -> Appetite:
            return appetite(total, self.theta, self.n, budget)

        kind = self._kind()
        return measured() if kind is None else once(kind, measured)

    def _kind(self) -> Hashable | None:
        """Everything that the memory of a product depends on; ``None`` where it is not known."""
        built = architecture(self.module)
        if built is None:
            return None
        x, y = self.data.inputs, self.data.targets
        shapes = (self.n, x.shape[1:], x.dtype, y.shape[1:], y.dtype)
        types = (self.device, self.dtype, self.forward_dtype)
        return (built, type(self.loss), self.loss.name, self.samples_interact, shapes, types)

    def without_weight_decay(self) -> EmpiricalRisk:
        """The same risk with λ = 0, sharing everything else."""
        if self.weight_decay == 0.0:
            return self
        other = copy.copy(self)
        other.weight_decay = 0.0
        return other

    def at_full_precision(self) -> EmpiricalRisk:
        """The same risk with the network's own arithmetic in ``dtype``, to see its structure by."""
        other = copy.copy(self)
        other.forward_dtype = None
        return other

    def with_batch_size(self, size: int) -> EmpiricalRisk:
        """The same risk in micro-batches of a size, whose graphs are not kept."""
        other = copy.copy(self)
        other._batch_size = size
        return other

    def on(
        self, data: Dataset, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> EmpiricalRisk:
        """The same risk on other data, with a cost of its own and not shared between processes."""
        other = copy.copy(self)
        other.device, other.dtype = device or self.device, dtype or self.dtype
        other.data, other.n = data, len(data)
        other._feed = Feed(data, other.device, other.dtype)
        other.normalizer = float(self.loss.count(data.targets))
        other.cost, other.ranks = Cost(), ALONE
        return other

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of this process, on the device, in a fixed order."""
        for _, x, y in self.numbered_batches():
            yield x, y

    def numbered_batches(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The same, each with the number of its first sample among all the data."""
        own = self._split.own_batches
        for (start, _), (x, y) in zip(own, self._feed.batches(own), strict=True):
            yield start, x, y

    def first_batch(self) -> tuple[Tensor, Tensor]:
        """A batch of the first samples, the same in every process."""
        last = self.bounds()[0][1] if self.samples_interact else min(self.batch_size, self.n)
        return self._feed.batch(0, self.ranks.least(last))

    def groups(self, size: int) -> Iterator[list[tuple[int, Tensor, Tensor]]]:
        """Groups of samples that no batch size changes, each in numbered batches.

        Every process is given its own.

        Args:
            size: samples in a group; batches of statistics are groups of their own.
        """
        for group in self._split.own_groups(size):
            yield [(start, *self._feed.batch(start, stop)) for start, stop in group]

    def bounds(self) -> list[tuple[int, int]]:
        """First sample and end of every batch, whichever process it belongs to."""
        return self._split.batches

    @property
    def held(self) -> int:
        """Samples of this process."""
        return self._split.held

    @property
    def _split(self) -> Split:
        size = self.bn_batch if self.samples_interact else self.batch_size
        return Split(self.n, size, self.samples_interact, self.ranks)

    def example_inputs(self, n: int = 2) -> Tensor:
        """The first ``n`` inputs, cast and on the device."""
        return self._feed.inputs(self.data.inputs[:n])

    math_attention = staticmethod(math_attention)

    def forward(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        """Network outputs ``[n, …]`` with the given tensors in place of the trained ones."""
        lower = torch.autocast(
            self.device.type, self.forward_dtype, enabled=self.forward_dtype is not None
        )
        with self.math_attention(), composed_weight_norm(self._weight_norm), lower:
            out = functional_call(self.module, parameters, (x,))
        return logits_of(out).to(self.dtype)

    def outputs(self, flat: Tensor, x: Tensor) -> Tensor:
        """Network outputs at the parameters ``flat [P]``."""
        return self.forward(self.space.unflatten(flat), x)

    def total(self, flat: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Sum of the weighted losses of a batch at ``flat [P]``: a float64 scalar."""
        return self.loss.total(self.outputs(flat, x), y)

    def value(self, flat: Tensor | None = None) -> float:
        """L at ``flat [P]``, by default at the trained point."""
        return float(self.value_tensor(self.theta if flat is None else flat))

    def value_tensor(self, flat: Tensor) -> Tensor:
        """L at ``flat [P]`` as a float64 scalar on the device: no host synchronisation."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        with torch.no_grad():
            for x, y in self.batches():
                total += self.total(flat, x, y)
        self.ranks.sum(total)
        self.cost.add(FORWARD)
        return total / self.normalizer + self._decay(flat)

    def gradient(self, flat: Tensor | None = None) -> Tensor:
        """∇L ``[P]`` at ``flat``, accumulated in float64, in the risk's dtype."""
        return self.value_and_gradient(flat)[1]

    def value_and_gradient(self, flat: Tensor | None = None) -> tuple[float, Tensor]:
        """L and ∇L ``[P]`` at ``flat``, by default at the trained point."""
        value, gradient = self.value_and_gradient_tensors(self.theta if flat is None else flat)
        return float(value), gradient.to(self.dtype)

    def value_and_gradient_tensors(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """L and ∇L ``[P]`` in float64 on the device: no host synchronisation."""
        point = flat.detach().to(self.dtype).requires_grad_()
        value = torch.zeros((), dtype=torch.float64, device=self.device)
        gradient = torch.zeros(self.space.dim, dtype=torch.float64, device=self.device)
        for x, y in self.batches():
            total = self.total(point, x, y)
            (g,) = torch.autograd.grad(total, point, materialize_grads=True)
            value += total.detach()
            gradient += g
        self.ranks.sum(value, gradient)
        self.cost.add(GRADIENT)
        # In place: of a large network every vector in float64 counts.
        gradient /= self.normalizer
        if self.weight_decay:
            gradient.add_(flat, alpha=self.weight_decay)
        return value / self.normalizer + self._decay(flat), gradient

    def _decay(self, flat: Tensor) -> float | Tensor:
        if self.weight_decay == 0.0:
            return 0.0
        return 0.5 * self.weight_decay * flat.detach().double().square().sum()
