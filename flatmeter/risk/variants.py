"""Risks of a part of the data."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.risk.module_copy import module_copy


def excerpt(risk: EmpiricalRisk, n: int, dtype: torch.dtype) -> EmpiricalRisk:
    """The risk of the first ``n`` samples in a dtype, with a cost of its own, not shared.

    On the CPU where the device has no float64. Its normalizer is zero where none of these samples
    counts.
    """
    device = torch.device("cpu") if risk.device.type == "mps" else risk.device
    data = replace(risk.data, inputs=risk.data.inputs[:n], targets=risk.data.targets[:n])
    other = risk.on(data, device, dtype)
    other.forward_dtype = risk.forward_dtype if dtype == risk.dtype else None
    other.module = module_copy(risk.module).to(device, dtype)
    other.theta = risk.theta.to(device, dtype)
    # To try strategies on a few samples would cost more than it gains; and what another dtype is
    # compared with is to share no error with it.
    if risk.strategy == "auto" or dtype != risk.dtype:
        other.strategy = "reverse"
    wider = dtype.itemsize // risk.dtype.itemsize
    # It takes more room than the batch size was settled for.
    return other.with_batch_size(max(1, risk.batch_size // wider)) if wider > 1 else other


def summed_over(risk: EmpiricalRisk, index: Tensor) -> EmpiricalRisk:
    """The *sum* of the losses of some samples, without weight decay and with its own cost.

    Not shared: every process has all of it.

    Args:
        risk: the empirical risk.
        index: ``[k]`` numbers of the samples; a whole batch where samples interact.
    """
    inputs, targets = risk.data.inputs[index], risk.data.targets[index]
    other = risk.on(replace(risk.data, inputs=inputs, targets=targets, source_size=None))
    other.normalizer, other.weight_decay = 1.0, 0.0
    other.strategy = "reverse"
    return other.with_batch_size(risk.batch_size)
