"""What gradients and curvature products of one network cost on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flatmeter.curvature.choice import choose
from flatmeter.curvature.products import GaussNewtonOperator, HessianOperator
from flatmeter.curvature.strategies import Curvature
from flatmeter.measures.expense import Expense
from flatmeter.risk.cost import PRODUCT
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.risk.variants import excerpt
from flatmeter.strategy import Strategy

OPERATORS = {"Hessian": HessianOperator, "Gauss-Newton": GaussNewtonOperator}

PRODUCT_VECTORS = 11
"""Vectors of the parameters' length that one product makes on its way, as measured."""


@dataclass(frozen=True)
class Product:
    """The cost of products in blocks.

    Args:
        curvature: the kind of matrix.
        vectors: in a block.
        strategy: how they are computed.
        seconds: for each vector, over all the data.
    """

    curvature: str
    vectors: int
    strategy: Strategy
    seconds: float


@dataclass(frozen=True)
class Pace:
    """Times and bytes, measured on the first micro-batch.

    Args:
        gradient: seconds for one over all the data.
        products: with the Hessian, single vectors first.
        columns: of the output's curvature.
        vector: bytes of one vector as long as the parameters.
        planned: bytes that a product takes for the samples.
    """

    gradient: float
    products: tuple[Product, ...]
    columns: int
    vector: int
    planned: int

    @classmethod
    def of(
        cls,
        risk: EmpiricalRisk,
        blocks: Sequence[int] = (1,),
        kinds: Sequence[str] = ("Hessian",),
    ) -> Pace:
        """Measure a network.

        Args:
            risk: the empirical risk.
            blocks: numbers of vectors, 1 first.
            kinds: curvature matrices, the Hessian first.
        """
        x, y = risk.first_batch()
        part = excerpt(risk, len(x), risk.dtype)
        if not risk.graphs_fit:
            part = part.with_batch_size(len(x))
        scale = risk.n / len(x)
        with torch.no_grad():
            columns = risk.loss.columns(risk.outputs(risk.theta, x[:2]), y[:2])
        return cls(
            gradient=_seconds(part.gradient) * scale,
            products=tuple(_product(risk, part, kind, k, scale) for kind in kinds for k in blocks),
            columns=columns,
            vector=risk.space.dim * risk.dtype.itemsize,
            planned=risk.product_bytes,
        )

    @property
    def product(self) -> float:
        """Seconds of one Hessian product over all the data."""
        return self.products[0].seconds

    def seconds(self, gradients: float) -> float:
        """Time for work of this many gradients, most of it products where there are many."""
        return gradients * max(self.gradient, self.product / PRODUCT)

    def bytes(self, expense: Expense) -> int:
        """Most memory, without the program and the network themselves."""
        return self.planned + (PRODUCT_VECTORS + expense.vectors) * self.vector


def _product(risk: EmpiricalRisk, part: EmpiricalRisk, kind: str, k: int, scale: float) -> Product:
    """Timed on a part of the risk, by the strategy that serves the whole."""
    curvature: Curvature = OPERATORS[kind].curvature
    part.strategy = choose(risk, curvature, k)
    operator = OPERATORS[kind](part)
    V = torch.ones(k, risk.space.dim, dtype=risk.dtype, device=risk.device)
    taken = _seconds(lambda: operator.matmat(V)) * scale / k
    return Product(kind, k, part.strategy, taken)


def _seconds(work: Callable[[], Tensor]) -> float:
    """Of the second run of two."""
    elapsed = 0.0
    for _ in range(2):
        started = time.perf_counter()
        work().cpu()
        elapsed = time.perf_counter() - started
    return elapsed
