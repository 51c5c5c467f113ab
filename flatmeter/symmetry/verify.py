"""Symmetries are evaluated before they are believed."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from flatmeter.randomness import derived_generator
from flatmeter.risk.attention import math_attention
from flatmeter.risk.logits import logits_of
from flatmeter.symmetry.group import Generator
from flatmeter.symmetry.ideal import ideal

DRAWS = 2
"""Random elements that are evaluated."""

ROUNDING = 1e-8
"""Relative change of float64 outputs that passes for rounding, in deep networks too."""

NUDGE = 1e-14
"""Relative change of single parameters, some tens of roundings, whose effect on the outputs passes
for rounding too: batch-norm over few values, two of them almost equal, magnifies it."""

AMPLIFIED = 1e-4
"""What no rounding explains, however magnified."""

EPS_FACTORS = (1e-6, 1e-12, 1e-18, 1e-24)
"""ε of the normalisations is multiplied by these, in turn, to see whether a change is due to it.
A channel with hardly any variance needs the smaller ones; where a channel's variance is nothing
but rounding the smaller ones show that rounding, so that the first to pass counts."""

SHRINKS = 0.1
"""A change that is due to ε becomes smaller by at least this factor."""


Factor = float | Tensor | Callable[[], Tensor]
"""What a parameter is multiplied by: a number, or numbers that broadcast to it, or a function that
makes these when they are needed, which spares the memory of all of them together."""


class Evaluator:
    """A float64 copy of the network that says how much its outputs change.

    Args:
        module: the network; left as it is.
        inputs: example inputs ``[n, …]``.
        names: the tensors that may be scaled.

    Attributes:
        others: further inputs whose outputs count as well.
    """

    def __init__(self, module: nn.Module, inputs: Tensor, names: Sequence[str]) -> None:
        # Apple's GPUs have no float64.
        device = torch.device("cpu") if inputs.device.type == "mps" else inputs.device
        self.module = copy.deepcopy(module).to(device, torch.float64)
        self.inputs = inputs.to(device, torch.float64 if inputs.is_floating_point() else None)
        self.parameters = {n: self.module.get_parameter(n).detach() for n in names}
        self._originals = {n: module.get_parameter(n).detach() for n in names}
        self.others: tuple[Tensor, ...] = ()
        self._trained: dict[float, Tensor] = {}

    def outputs(self, factors: Mapping[str, Factor] | None = None) -> Tensor:
        """The network's outputs with some of its parameters multiplied.

        The copy's own parameters are changed and restored: giant networks fit in memory twice, not
        three times.
        """
        factors = factors or {}
        try:
            for name, factor in factors.items():
                value = factor() if callable(factor) else factor
                value = torch.as_tensor(value, dtype=torch.float64, device=self.inputs.device)
                self.parameters[name].mul_(value)
            with torch.no_grad(), math_attention():
                batches = (self.inputs, *self.others)
                return torch.cat([logits_of(self.module(x)).flatten() for x in batches])
        finally:
            for name in factors:
                self.parameters[name].copy_(self._originals[name])

    def trained_outputs(self, eps_factor: float = 1.0) -> Tensor:
        """The network's outputs as it is, or with another ε in its normalisation layers."""
        if eps_factor not in self._trained:
            with ideal(self.module, eps_factor):
                self._trained[eps_factor] = self.outputs()
        return self._trained[eps_factor]

    @cached_property
    def rounding(self) -> float:
        """Relative change of the outputs that may be due to rounding in this network."""
        factors = {name: partial(_nudge, name, p) for name, p in self.parameters.items()}
        return min(max(ROUNDING, self.change(factors)), AMPLIFIED)

    @property
    def is_silent(self) -> bool:
        """All outputs are zero, so that evaluation shows nothing."""
        return not bool(self.trained_outputs().any())

    def change(self, factors: Mapping[str, Factor], eps_factor: float = 1.0) -> float:
        """Relative change of the outputs when parameters are multiplied.

        Args:
            factors: by name; other parameters stay.
            eps_factor: ε of every normalisation layer is multiplied by this, before and after.

        Returns:
            The change; infinite where the outputs are not finite.
        """
        before = self.trained_outputs(eps_factor)
        with ideal(self.module, eps_factor):
            after = self.outputs(factors)
        change = float((after - before).norm() / before.norm().clamp_min(1e-300))
        return change if change == change else float("inf")


def _nudge(name: str, parameter: Tensor) -> Tensor:
    noise = torch.randn(parameter.shape, generator=derived_generator(0, f"nudge {name}"))
    return 1.0 + NUDGE * noise.double()


def draws(generators: Sequence[Generator]) -> list[dict[str, float]]:
    """Factors by name of random combinations, the largest of their logarithms ±1."""
    combinations: list[dict[str, float]] = []
    if not generators:
        return combinations
    for i in range(DRAWS):
        source = derived_generator(0, "symmetry", i)
        steps = torch.randn(len(generators), generator=source, dtype=torch.float64).tolist()
        scales: dict[str, float] = defaultdict(float)
        for step, generator in zip(steps, generators, strict=True):
            for name, move in generator.moves.items():
                scales[name] += step * move
        largest = max(map(abs, scales.values()))
        combinations.append({name: math.exp(a / largest) for name, a in scales.items()})
    return combinations


def verified(
    generators: Sequence[Generator], evaluator: Evaluator
) -> tuple[tuple[Generator, ...], float, float]:
    """Leave out what evaluation contradicts.

    Random combinations pass only if every generator does, so that generators are evaluated one by
    one only where those fail.

    Returns:
        The generators that hold, and the largest relative changes of the outputs under random
        combinations of those that are exact, and of the others.
    """
    exact = [g for g in generators if g.exact]
    approximate = [g for g in generators if not g.exact]
    kept_exact, error = _holding(exact, evaluator, up_to_eps=False)
    kept_approximate, change = _holding(approximate, evaluator, up_to_eps=True)
    kept = {*kept_exact, *kept_approximate}
    return tuple(g for g in generators if g in kept), error, change


def _holding(
    generators: list[Generator], evaluator: Evaluator, *, up_to_eps: bool
) -> tuple[list[Generator], float]:
    """The generators that hold together, and the largest change under their combinations."""
    error = change_under(draws(generators), evaluator, up_to_eps=up_to_eps)
    if error is not None:
        return generators, error
    kept: list[Generator] = []
    error = 0.0
    for generator in generators:
        if change_under(draws([generator]), evaluator, up_to_eps=up_to_eps) is None:
            continue
        # What holds alone and not with those before it is not known to hold.
        together = change_under(draws([*kept, generator]), evaluator, up_to_eps=up_to_eps)
        if together is not None:
            kept, error = [*kept, generator], together
    return kept, error


def change_under(
    elements: Sequence[Mapping[str, Factor]], evaluator: Evaluator, *, up_to_eps: bool
) -> float | None:
    """Largest relative change of the outputs, or ``None`` where an element is no symmetry.

    Args:
        elements: factors by name.
        evaluator: of the network.
        up_to_eps: a change passes that becomes negligible as ε of the normalisations does.
    """
    largest = 0.0
    for element in elements:
        change = evaluator.change(element)
        # How much rounding there may be is evaluated only where it is in question.
        contradicts = change > ROUNDING and change > evaluator.rounding
        if contradicts and not (up_to_eps and _vanishes(element, evaluator, change)):
            return None
        largest = max(largest, change)
    return largest


def _vanishes(element: Mapping[str, Factor], evaluator: Evaluator, change: float) -> bool:
    enough = max(evaluator.rounding, SHRINKS * change)
    return any(evaluator.change(element, factor) <= enough for factor in EPS_FACTORS)
