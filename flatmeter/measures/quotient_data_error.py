"""What measuring on a sample of the data does to the quotient Hessian, at fixed weights.

The metric depends on the weights alone, so that everything else is a mean over the data: the
operator with its connection, its trace, and the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from flatmeter.curvature.data_error import DataGroups, apart, norm_errors
from flatmeter.estimate import Estimate
from flatmeter.measures.quotient_metric import Connection, Frame
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.spectral.operator import Operator


def with_data_errors(
    groups: DataGroups,
    found: Mapping[str, Estimate],
    frame: Frame,
    make: Callable[[EmpiricalRisk, Connection], Operator],
    vectors: tuple[Tensor, Tensor],
    trace_sums: Callable[[Connection, Operator], Tensor],
    layer_sums: Tensor | None,
    gradient: Tensor,
) -> dict[str, Estimate]:
    """The measure's quantities with their errors.

    Args:
        groups: of the samples.
        found: the quantities.
        frame: the metric's.
        make: the operator of a risk and its connection.
        vectors: ``[r]`` Ritz vectors of the largest and the smallest eigenvalue.
        trace_sums: what a part of the data adds to the trace besides the layer traces, a scalar.
        layer_sums: ``[G]`` what the layer traces of every group add; ``None`` where the trace was
            taken otherwise, and its error stays unknown.
        gradient: ``[r]`` D g, whose norm is one of the quantities.
    """
    pair = torch.stack(vectors)

    def of(part: EmpiricalRisk) -> Tensor:
        loss, gradient = part.value_and_gradient()
        connection = Connection(frame, gradient[frame.index])
        operator = make(part, connection)
        forms = (pair.double() * operator.matmat(pair).double()).sum(1).cpu()
        rest = trace_sums(connection, operator).cpu()
        return torch.cat([forms, rest.double()[None], torch.tensor([loss])])

    sums = groups.sums(of)
    top, bottom, rest, losses = sums.unbind(1)
    loss = float(groups.mean(losses))
    # λ / (2 + 2L), to first order in both.
    normalized = (top - found["normalized"].value * 2 * losses) / (2 + 2 * loss)
    errors = {
        "lambda_max": top,
        "lambda_min": bottom,
        "abs_max": top if found["lambda_max"].value >= -found["lambda_min"].value else bottom,
        "normalized": normalized,
    }
    if layer_sums is not None:
        errors["trace"] = layer_sums + rest
    stderrs = {name: float(groups.stderr(s)) for name, s in errors.items()}

    def scaled_gradient(part: EmpiricalRisk) -> Tensor:
        return frame.norm * part.gradient()[frame.index]

    norm = norm_errors(groups, gradient, gradient, scaled_gradient, lambda x: x.sum()[None])
    stderrs["gradient_norm"] = float(norm)
    whole = {name: replace(e, data_stderr=stderrs.get(name)) for name, e in found.items()}
    ends = [found["lambda_max"], found["lambda_min"]]
    for name in ("lambda_max", "lambda_min"):
        whole[name] = apart(found[name], stderrs[name], ends)
    return whole
