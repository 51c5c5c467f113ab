"""Loss and accuracy of a network over its data."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from flatmeter.risk.cost import FORWARD
from flatmeter.risk.empirical import EmpiricalRisk


@dataclass(frozen=True)
class Evaluation:
    """Loss and accuracy over the data, printed beside every measure.

    Args:
        loss: mean loss, without weight decay.
        accuracy: fraction of correct predictions, ``None`` where that has no meaning.
        n: number of samples.
    """

    loss: float
    accuracy: float | None
    n: int


def evaluate(risk: EmpiricalRisk) -> Evaluation:
    """Loss (without weight decay) and accuracy over all the data."""
    # Loss; correct and counted answers; batches of which these have no meaning.
    sums = torch.zeros(4, dtype=torch.float64)
    with torch.no_grad():
        for x, y in risk.batches():
            z = risk.outputs(risk.theta, x)
            sums[0] += float(risk.loss.total(z, y))
            answers = risk.loss.correct(z, y)
            sums[1:] += torch.tensor([0, 0, 1] if answers is None else [*answers, 0])
    risk.ranks.sum(sums)
    risk.cost.add(FORWARD)
    loss, correct, counted, meaningless = sums.tolist()
    accuracy = None if meaningless or not counted else correct / counted
    return Evaluation(loss / risk.normalizer, accuracy, risk.n)
