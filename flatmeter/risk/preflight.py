"""Before an hour is lost: that everything the measures need exists and is repeatable."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from flatmeter.errors import (
    DataError,
    FlatmeterError,
    NotDeterministic,
    NotDifferentiable,
    Stopped,
)
from flatmeter.out_of_memory import ran_out
from flatmeter.risk.causal_lm import CausalLM
from flatmeter.risk.cost import FORWARD, GRADIENT, PRODUCT
from flatmeter.risk.cross_entropy import CrossEntropy
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.risk.losses import BinaryCrossEntropy, MeanSquaredError
from flatmeter.risk.non_finite import raise_non_finite, watched_outputs

#: Most samples of the batch that the preflight looks at.
PREFLIGHT_SAMPLES = 64

KNOWN = (CausalLM, CrossEntropy, BinaryCrossEntropy, MeanSquaredError)
"""Losses that are means of those of the samples, as tests of theirs say."""

_SEPARATE = (
    "measures need a loss that is a mean over samples; the one exception are PyTorch's own "
    "batch-norm layers, so write what mixes samples in terms of them, or leave it out"
)


def preflight(risk: EmpiricalRisk) -> tuple[str, ...]:
    """Evaluate loss, gradient and one product on one batch, twice.

    Args:
        risk: the empirical risk.

    Returns:
        Notes worth showing: frozen, unused and tied parameters, and what the loss has to say.

    Raises:
        DataError: inputs or targets do not fit the network or the loss.
        NonFinite: the loss or gradient of this batch is not finite; says in which layer it starts.
        NotDeterministic: two evaluations differ, or the network writes to its buffers.
        NotDifferentiable: an operator has no first or second derivative.
    """
    _refuse_other_gradients(risk.module)
    x, y = _first_batch(risk)
    with torch.no_grad():
        z = _first_outputs(risk, x)
    risk.loss.check(z, risk.data.targets)
    if not torch.isfinite(z).all():
        raise_non_finite(risk)
    _check_repeatable(risk, x)
    if not risk.samples_interact:
        _check_separate(risk, x, y, z)
    gradient = _check_derivatives(risk, x, y)
    risk.cost.add(len(x) / risk.n * (3 * FORWARD + 2 * GRADIENT + PRODUCT))
    return (*_notes(risk, gradient), *risk.loss.remarks(z, risk.data.targets))


def _first_batch(risk: EmpiricalRisk) -> tuple[Tensor, Tensor]:
    if risk.samples_interact:
        return risk.first_batch()
    x = risk.example_inputs(PREFLIGHT_SAMPLES)
    return x, risk.data.targets[: len(x)].to(risk.device)


def _first_outputs(risk: EmpiricalRisk, x: Tensor) -> Tensor:
    try:
        z = risk.outputs(risk.theta, x)
    except FlatmeterError:
        raise
    except Exception as error:
        if ran_out(error):
            raise
        raise DataError(
            f"the network does not take inputs of shape {list(x.shape)} ({x.dtype}): "
            f"{_first_line(error)}",
            where=risk.data.name,
            hint="give the data that the network was trained on, in its shape, by --data",
        ) from error
    if z.shape[:1] != x.shape[:1]:
        raise DataError(
            f"the network gives outputs {list(z.shape)} for {len(x)} samples; the first dimension "
            "must count samples"
        )
    return z


def _check_repeatable(risk: EmpiricalRisk, x: Tensor) -> None:
    """Compare every module's output in two runs; the first that differs is the one to name."""
    before = {n: b.detach().clone() for n, b in risk.module.named_buffers()}
    first = _module_outputs(risk, x)
    second = _module_outputs(risk, x)
    for name, buffer in risk.module.named_buffers():
        if not torch.equal(before[name], buffer):
            raise NotDeterministic(
                f"evaluating the network changes its buffer {name!r}",
                hint="measures need a network that is a pure function of its input in eval mode",
            )
    for (name, a), (_, b) in zip(first, second, strict=False):
        scale = float(a.abs().max()) if a.numel() else 0.0
        close = torch.allclose(a, b, rtol=1e-3, atol=1e-4 * scale, equal_nan=True)
        if not close:
            raise NotDeterministic(
                f"two evaluations on the same batch differ, first in {name or 'the network'}",
                hint="random layers that ignore eval mode (functional dropout?) must be turned off",
            )


def _refuse_other_gradients(module: nn.Module) -> None:
    """Refuse layers whose gradient is, by design, not the derivative of what they compute."""
    for name, layer in module.named_modules():
        if getattr(layer, "scale_grad_by_freq", False):
            raise FlatmeterError(
                f"the gradient of layer {name!r} is not the derivative of its output: it has "
                "scale_grad_by_freq=True",
                hint="build the network without it for measuring; it changes training only",
            )


def _check_separate(risk: EmpiricalRisk, x: Tensor, y: Tensor, z: Tensor) -> None:
    """Without batch statistics neither network nor loss may see how samples are batched."""
    if len(x) == 1:
        return
    with torch.no_grad():
        alone = _alone(risk, x)
    if not torch.allclose(alone, z[:1], rtol=1e-3, atol=1e-3 * float(z.abs().max())):
        raise FlatmeterError(
            "the network's output for a sample depends on the other samples of its batch",
            hint=_SEPARATE,
        )
    if type(risk.loss) not in KNOWN:
        _check_mean(risk, y, z)


def _check_mean(risk: EmpiricalRisk, y: Tensor, z: Tensor) -> None:
    """A person's own loss is the mean of those of the samples."""
    with torch.no_grad():
        others = risk.loss.total(z[1:], y[1:])
    # The losses may happen to be alike where their slopes are not.
    (first, one), (whole, all_) = _slope(risk, z[:1], y[:1]), _slope(risk, z, y)
    same = torch.allclose(one, all_[:1], rtol=1e-3, atol=1e-3 * float(one.abs().max()))
    if not (same and torch.allclose(first + others, whole, rtol=1e-3, atol=1e-6)):
        raise FlatmeterError(
            "the loss of a batch is not the mean of its samples' losses",
            hint="give a loss that averages over samples",
        )


def _slope(risk: EmpiricalRisk, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A batch's loss and its gradient in the outputs, shaped as they are; zero if it has none."""
    at = z.detach().requires_grad_()
    with torch.enable_grad():
        total = risk.loss.total(at, y)
    if not total.requires_grad:
        return total, torch.zeros_like(z)
    (slope,) = torch.autograd.grad(total, at)
    return total.detach(), slope


def _alone(risk: EmpiricalRisk, x: Tensor) -> Tensor:
    try:
        return risk.outputs(risk.theta, x[:1])
    except Stopped:
        raise
    except Exception as error:
        if ran_out(error):
            raise
        raise FlatmeterError(
            f"the network takes {len(x)} samples but not one alone: {_first_line(error)}",
            hint=_SEPARATE,
        ) from error


def _module_outputs(risk: EmpiricalRisk, x: Tensor) -> list[tuple[str, Tensor]]:
    """Floating-point outputs of all modules in the order in which they finish."""
    seen: list[tuple[str, Tensor]] = []
    with (
        torch.no_grad(),
        watched_outputs(risk.module, lambda name, out: seen.append((name, out.clone()))),
    ):
        risk.outputs(risk.theta, x)
    return seen


def _check_derivatives(risk: EmpiricalRisk, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of the batch, after gradient and product were found to exist and be finite."""
    point = risk.theta.detach().requires_grad_()
    try:
        total = risk.total(point, x, y)
        (g,) = torch.autograd.grad(total, point, create_graph=True, materialize_grads=True)
    except RuntimeError as error:
        if ran_out(error):
            raise
        raise NotDifferentiable(
            f"the loss has no gradient in the parameters: {_operator(error)}",
            hint="call the embedding without sparse=True for measuring; its numbers are the same"
            if "sparse" in str(error)
            else None,
        ) from error
    if not torch.isfinite(total) or not torch.isfinite(g).all():
        raise_non_finite(risk)
    if g.requires_grad:
        _refuse_once_differentiable(total, g)
        try:
            torch.autograd.grad(g, point, torch.ones_like(g), materialize_grads=True)
        except RuntimeError as error:
            if ran_out(error):
                raise
            raise NotDifferentiable(
                f"the network has no second derivative: {_operator(error)}",
                hint="replace that operator by one PyTorch can differentiate twice "
                "(for fused attention or recurrent cells, a plain implementation)",
            ) from error
    return g.detach()


def _refuse_once_differentiable(total: Tensor, gradient: Tensor) -> None:
    """PyTorch only complains of such a function when its error node is run.

    A derivative with respect to given inputs prunes that node and silently leaves its part out.
    """
    if not any(node.name() == "torch::autograd::Error" for node in _graph(gradient)):
        return
    custom = {type(n).__name__ for n in _graph(total) if isinstance(n, BackwardCFunction)}
    raise NotDifferentiable(
        "the network uses a custom function that can be differentiated only once: "
        + ", ".join(sorted(name.removesuffix("Backward") for name in custom)),
        hint="write its backward pass in differentiable operations, without once_differentiable",
    )


def _graph(tensor: Tensor) -> set[Any]:
    """Every node of the autograd graph behind a tensor."""
    seen: set[Any] = set()
    stack = [tensor.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack.extend(child for child, _ in node.next_functions)
    return seen


def _operator(error: Exception) -> str:
    """The operator's name, where PyTorch's message tells it."""
    text = _first_line(error)
    found = re.search(r"derivative for ['\"]?([\w:. ]+?)['\"]? is not implemented", text)
    return f"the operator {found.group(1)} has none" if found else text


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _notes(risk: EmpiricalRisk, gradient: Tensor) -> tuple[str, ...]:
    notes = []
    space = risk.space
    if space.frozen:
        notes.append(f"{len(space.frozen)} frozen parameter tensors are held fixed")
    if space.tied:
        notes.append(f"{len(space.tied)} parameter tensors are used under several names (tied)")
    idle = [
        name
        for name, part in zip(space.names, gradient.split(space.sizes), strict=True)
        if not part.any()
    ]
    if idle:
        some = ", ".join(idle[:3]) + (", …" if len(idle) > 3 else "")
        notes.append(f"{len(idle)} parameter tensors have no gradient on the first batch ({some})")
    return tuple(notes)
