"""How much memory curvature products take, from one measured micro-batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from flatmeter.risk.footprint import peak_bytes

FEW = 4
"""Samples of the first look, which bounds what the second may take."""

ENOUGH, PART = 2**24, 8
"""The second look takes samples of 16 MiB, or as many as outweigh the vectors but no more than an
eighth of the data."""

VECTORS = 4
"""Vectors as long as the parameters that are alive at the height of a product."""


@dataclass(frozen=True)
class Appetite:
    """Bytes that one curvature product takes for each sample.

    Vectors as long as the parameters are not counted.

    Args:
        kept: of the graph of a gradient, as long as it is held.
        passing: at the height of a product, the graph included.
    """

    kept: int
    passing: int

    def of(self, batch: int, held: int = 0) -> int:
        """Most bytes at once.

        Args:
            batch: samples of a micro-batch.
            held: samples whose graphs are kept between products.
        """
        return self.passing * batch + self.kept * max(0, held - batch)


_MEASURED: OrderedDict[Hashable, Appetite] = OrderedDict()
_KEPT = 64


def once(kind: Hashable, measure: Callable[[], Appetite]) -> Appetite:
    """What is measured once for all networks of a kind.

    Args:
        kind: everything that bytes depend on; the last few kinds are remembered.
        measure: called for a kind that is new.
    """
    if kind not in _MEASURED:
        _MEASURED[kind] = measure()
        if len(_MEASURED) > _KEPT:
            _MEASURED.popitem(last=False)
    return _MEASURED[kind]


def appetite(
    total: Callable[[Tensor, int], Tensor], point: Tensor, n: int, budget: int
) -> Appetite:
    """Measure a Hessian product on a few samples, then on enough for activations to stand out.

    Args:
        total: the loss of the first samples at a point, differentiable twice.
        point: the parameters ``[P]``.
        n: samples that there are.
        budget: bytes that the second look may take.
    """
    few = min(n, FEW)
    kept, peak = _product_bytes(total, point, few)
    vectors = VECTORS * point.numel() * point.element_size()
    per_sample = max(1, (peak - vectors) // few, kept // (2 * few))
    enough = max(4 * vectors, ENOUGH) // per_sample
    wanted = min(n, enough, max(n // PART, ENOUGH // per_sample), budget // max(1, peak) * few)
    if wanted > few:
        kept_few = kept
        kept, peak = _product_bytes(total, point, wanted)
        slope = (kept - kept_few) // (wanted - few)
    else:
        wanted, slope = few, kept // few
    slope = max(1, slope)
    return Appetite(slope, max(slope, (peak - vectors) // wanted))


def _product_bytes(
    total: Callable[[Tensor, int], Tensor], point: Tensor, n: int
) -> tuple[int, int]:
    """Bytes of a gradient's graph, and most bytes while a product runs through it."""
    graph = 0

    def product(alive: Callable[[], int]) -> None:
        nonlocal graph
        start = point.detach().clone().requires_grad_()
        with torch.enable_grad():
            value = total(start, n)
            (g,) = torch.autograd.grad(value, start, create_graph=True, materialize_grads=True)
        graph = alive()
        if g.requires_grad:
            # As where the graph is kept: it is not freed on the way.
            torch.autograd.grad(g, start, g.detach(), retain_graph=True, materialize_grads=True)

    peak = peak_bytes(product, point.device)
    return graph, peak
