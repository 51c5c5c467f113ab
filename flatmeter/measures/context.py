"""What a measure may ask for: the risk, its operators, the symmetry group, tolerances, a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from flatmeter.randomness import derived_generator
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.symmetry.group import SymmetryGroup


@dataclass
class Context:
    """Everything a measure computes from.

    Args:
        risk: the empirical risk, with batch-norm in the mode that was settled for this measure.
        bn: that mode, ``"eval"`` or ``"batch"``; ``None`` where the network has no batch-norm.
        group: called to get the symmetry group of the network in that mode.
        rtol: relative tolerance asked for by ``--rtol``; ``None`` leaves each measure its own.
        confidence: coverage of the intervals.
        max_products: most curvature products that one measure may spend, for traces most probes, of
            one or two products each; ``None`` for its default.
        seed: of the run.
        progress: told in words what is being done, and raises when the run must stop.
        lr, training_weight_decay: the optimiser's, where the user gave them.
        saved: state of an earlier measurement to go on from, see :attr:`Measure.effort`; empty
            where there is none.
    """

    risk: EmpiricalRisk
    bn: str | None
    group: Callable[[], SymmetryGroup]
    rtol: float | None = None
    confidence: float = 0.95
    max_products: int | None = None
    seed: int = 0
    progress: Callable[[str], None] = field(default=lambda text: None)
    lr: float | None = None
    training_weight_decay: float | None = None
    saved: Mapping[str, np.ndarray] = field(default_factory=dict)

    def generator(self, purpose: str, index: int = 0) -> torch.Generator:
        """A CPU generator that depends on the seed, a purpose and an index only.

        So that more probes extend a run, and batch sizes do not change which vectors are drawn.
        """
        return derived_generator(self.seed, purpose, index)
