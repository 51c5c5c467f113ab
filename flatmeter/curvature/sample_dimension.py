"""Which dimension of what an operator sees counts samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from flatmeter.curvature.capture import Call, Capture
from flatmeter.randomness import derived_generator
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


class Layout(Enum):
    """Where the samples are in an operator's input and output."""

    FIRST = "the first dimension"
    SECOND = "the second dimension, after the positions"
    OUTER = "a first dimension of samples times positions, sample by sample"
    INNER = "a first dimension of positions times samples, position by position"

    def moved(self, tensor: Tensor, n: int, lead: int = 0) -> Tensor:
        """A view with the ``n`` samples in a dimension of their own, after ``lead`` others."""
        if self is Layout.FIRST:
            return tensor
        shape = tensor.shape
        if self is Layout.OUTER:
            return tensor.reshape(*shape[:lead], n, -1, *shape[lead + 1 :])
        if self is Layout.INNER:
            tensor = tensor.reshape(*shape[:lead], -1, n, *shape[lead + 1 :])
        return tensor.transpose(lead, lead + 1)

    def placed(self, call: Call, n: int) -> Call:
        """The call with its input's samples in the first dimension; the output stays."""
        moved = self.moved(call.input, n)
        return replace(call, arguments={**call.arguments, "input": moved})


#: Operators that treat every position alike, wherever the positions are.
_POSITIONWISE = ("linear", "embedding", "layer_norm", "rms_norm")

_FOUND: WeakKeyDictionary[nn.Module, Mapping[str, Layout]] = WeakKeyDictionary()


def sample_layouts(risk: EmpiricalRisk) -> Mapping[str, Layout]:
    """Where the samples are at every known operator, by the names of its parameters.

    From the shapes at two numbers of samples, and from the cotangents of each sample, which are
    zero at all others. Parameters for which these leave a choice are left out. Found once for a
    network.
    """
    if risk.module not in _FOUND:
        _FOUND[risk.module] = _layouts(risk)
    return _FOUND[risk.module]


def _layouts(risk: EmpiricalRisk) -> dict[str, Layout]:
    tensors = {n: t.detach() for n, t in risk.space.unflatten(risk.theta).items()}
    candidates = {name: list(Layout) for name in tensors}
    for n in _COUNTS:
        watch = Capture({name: t.clone().requires_grad_() for name, t in tensors.items()})
        with torch.enable_grad(), watch:
            z = risk.forward(dict(watch.parameters), few_samples(risk, n))
        calls = [call for call in watch.calls if call.names]
        if not z.requires_grad or z.shape[:1] != (n,):
            return {}
        # Not of one sample alone: where only the first position counts, as that of a class token,
        # the first sample's cotangents are the first row in either order of samples and positions.
        for sample in range(n if calls else 0):
            deltas = _cotangents(z, [call.output for call in calls], sample)
            for call, delta in zip(calls, deltas, strict=True):
                fit = [form for form in Layout if _fits(form, call, delta, n, sample)]
                for name in call.names:
                    candidates[name] = [form for form in candidates[name] if form in fit]
    seen = {name for call in watch.calls for name in call.names}
    return {n: forms[0] for n, forms in candidates.items() if len(forms) == 1 and n in seen}


def _cotangents(z: Tensor, outputs: list[Tensor], sample: int) -> tuple[Tensor | None, ...]:
    """Of one sample's outputs, at the given tensors."""
    signs = torch.zeros_like(z)
    source = derived_generator(0, "layouts", sample)
    signs[sample] = torch.randn(z.shape[1:], generator=source).to(z)
    return torch.autograd.grad(z, outputs, signs, retain_graph=True, allow_unused=True)


def _fits(form: Layout, call: Call, delta: Tensor | None, n: int, sample: int) -> bool:
    """Whether the call's shapes and one sample's cotangent are as the layout has them."""
    sizes = [call.input.shape, call.output.shape]
    if form is Layout.FIRST:
        fits = all(size[:1] == (n,) for size in sizes)
    elif call.kind not in _POSITIONWISE:
        return False
    elif form is Layout.SECOND:
        fits = all(len(size) > 1 and size[1] == n for size in sizes) and call.output.dim() > 2
    else:
        fits = all(len(size) == 2 and size[0] % n == 0 and size[0] > n for size in sizes)
    if not fits or delta is None:
        return fits
    moved = form.moved(delta, n)
    return not bool(moved[:sample].any() or moved[sample + 1 :].any())
