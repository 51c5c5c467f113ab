"""Whether the first dimension of what an operator sees counts samples."""

from __future__ import annotations

import torch
from torch import Tensor

from flatmeter.curvature.capture import Capture
from flatmeter.risk.empirical import EmpiricalRisk

#: A dimension that is always the number of samples is no other one's, such as that of positions.
_COUNTS = (3, 4)


def few_samples(risk: EmpiricalRisk, n: int) -> Tensor:
    """``n`` inputs, repeated where there are fewer samples."""
    x = risk.example_inputs(n)
    return torch.cat([x] * n)[:n]


def counts_samples(risk: EmpiricalRisk) -> frozenset[str]:
    """Parameters of which every known operator has one slice of input and of output per sample.

    One number of samples would not tell: a sequence of three positions that comes first looks like
    three samples.
    """
    tensors = {name: p.detach() for name, p in risk.module.named_parameters()}
    tensors |= risk.space.unflatten(risk.theta)
    counting = set(tensors)
    for n in _COUNTS:
        watch = Capture(tensors)
        with torch.no_grad(), watch:
            risk.forward(tensors, few_samples(risk, n))
        for call in watch.calls:
            if call.input.shape[:1] != (n,) or call.output.shape[:1] != (n,):
                counting -= set(call.names)
    return frozenset(counting)
