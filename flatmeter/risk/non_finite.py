"""Where a network's values stop being finite, for a person to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from flatmeter.errors import NonFinite
from flatmeter.risk.empirical import EmpiricalRisk


def raise_non_finite(risk: EmpiricalRisk) -> None:
    """Find where values first stop being finite and say so.

    Raises:
        NonFinite: names the first tensor, or the first batch and the first layer, or says that all
            outputs are finite and the loss or gradient is not. Returns only where everything is
            finite.
    """
    _refuse_weights(risk.module)
    room = "float32 ends at 3e38: --dtype float64 goes further" if risk.dtype.itemsize < 8 else None
    for start, x, y in risk.numbered_batches():
        bad: list[str] = []

        def note(name: str, out: Tensor, bad: list[str] = bad) -> None:
            if not torch.isfinite(out).all():
                bad.append(name)

        with torch.no_grad(), watched_outputs(risk.module, note):
            z = risk.outputs(risk.theta, x)
            total = risk.loss.total(z, y)
        where = f"samples {start} to {start + len(x) - 1}"
        if not torch.isfinite(x).all() if x.is_floating_point() else False:
            raise NonFinite(f"the inputs of {where} hold values that are not finite")
        if bad:
            raise NonFinite(
                f"values stop being finite in {where}, first in layer {bad[0]!r}", hint=room
            )
        if not torch.isfinite(total):
            raise NonFinite(
                f"the loss of {where} is not finite although the outputs are", hint=room
            )
        name = _first_bad_gradient(risk, x, y)
        if name is not None:
            raise NonFinite(f"the gradient of {where} is not finite, first in {name}", hint=room)


def _refuse_weights(module: nn.Module) -> None:
    hint = "the training diverged before it was saved, or the file was damaged"
    for name, parameter in module.named_parameters():
        if not torch.isfinite(parameter).all():
            raise NonFinite(f"the parameter {name} holds values that are not finite", hint=hint)
    for name, buffer in module.named_buffers():
        # Infinity may be meant there: masks of attention hold it.
        if buffer.isnan().any():
            raise NonFinite(f"the buffer {name} holds values that are not a number", hint=hint)


def _first_bad_gradient(risk: EmpiricalRisk, x: Tensor, y: Tensor) -> str | None:
    """Name of the first parameter in which the gradient of a batch is not finite."""
    point = risk.theta.detach().requires_grad_()
    (g,) = torch.autograd.grad(risk.total(point, x, y), point, materialize_grads=True)
    parts = zip(risk.space.names, g.split(risk.space.sizes), strict=True)
    return next((name for name, part in parts if not torch.isfinite(part).all()), None)


@contextmanager
def watched_outputs(module: nn.Module, told: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Tell the name and floating-point output of every module that finishes."""

    def hook(name: str) -> Callable[..., None]:
        def call(_: nn.Module, __: object, out: object) -> None:
            if isinstance(out, Tensor) and out.is_floating_point():
                told(name, out.detach())

        return call

    # The module itself is called by functional_call with its submodules, so hooks see all of them.
    handles = [m.register_forward_hook(hook(n)) for n, m in module.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
