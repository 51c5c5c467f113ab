"""Symmetries are evaluated before they are believed."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from flatmeter.randomness import derived_generator
from flatmeter.risk.attention import math_attention
from flatmeter.risk.empirical import logits_of
from flatmeter.symmetry.group import Generator

DRAWS = 2
"""Random elements that are evaluated."""

ROUNDING = 1e-8
"""Relative change of float64 outputs that passes for rounding, in deep networks too."""

EPS_FACTOR = 1e-6
"""ε of the normalisations is multiplied by this to see whether a change is due to it."""

SHRINKS = 0.1
"""A change that is due to ε becomes smaller by at least this factor."""


class Evaluator:
    """A float64 copy of the network that says how much its outputs change.

    Args:
        module: the network; left as it is.
        inputs: example inputs ``[n, …]``.
        names: the tensors that may be scaled.
    """

    def __init__(self, module: nn.Module, inputs: Tensor, names: Sequence[str]) -> None:
        # Apple's GPUs have no float64.
        device = torch.device("cpu") if inputs.device.type == "mps" else inputs.device
        self.module = copy.deepcopy(module).to(device, torch.float64)
        self.inputs = inputs.to(device, torch.float64 if inputs.is_floating_point() else None)
        self.parameters = {n: self.module.get_parameter(n).detach() for n in names}
        self._outputs: Tensor | None = None

    def outputs(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The network's outputs with some of its parameters replaced."""
        with torch.no_grad(), math_attention():
            out = functional_call(self.module, dict(parameters), (self.inputs,))
        return logits_of(out)

    @property
    def trained_outputs(self) -> Tensor:
        """The network's outputs as it is."""
        if self._outputs is None:
            self._outputs = self.outputs({})
        return self._outputs

    @property
    def is_silent(self) -> bool:
        """All outputs are zero, so that evaluation shows nothing."""
        return not bool(self.trained_outputs.any())

    def change(self, factors: Mapping[str, float | Tensor]) -> float:
        """Relative change of the outputs when parameters are multiplied.

        Args:
            factors: by name, one for the tensor or one for each entry; other parameters stay.

        Returns:
            The change; infinite where the outputs are not finite.
        """
        before = self.trained_outputs
        moved = {}
        for name, factor in factors.items():
            factor = torch.as_tensor(factor, dtype=torch.float64, device=self.inputs.device)
            moved[name] = self.parameters[name] * factor
        after = self.outputs(moved)
        change = float((after - before).norm() / before.norm().clamp_min(1e-300))
        return change if change == change else float("inf")

    def with_small_eps(self) -> Evaluator:
        """The same network with a negligible ε in its normalisation layers."""
        other = copy.copy(self)
        other.module, other._outputs = copy.deepcopy(self.module), None
        for layer in other.module.modules():
            if isinstance(getattr(layer, "eps", None), float):
                layer.eps = layer.eps * EPS_FACTOR  # type: ignore[assignment, operator]
        return other


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
) -> tuple[tuple[Generator, ...], float, tuple[str, ...]]:
    """Leave out what evaluation contradicts.

    Random combinations pass only if every generator does, so that generators are evaluated one by
    one only where those fail.

    Returns:
        The generators that hold, the largest relative change of the outputs under random
        combinations of them, and notes that name the others.
    """
    exact = [g for g in generators if g.exact]
    approximate = [g for g in generators if not g.exact]
    kept_exact, error = _holding(exact, evaluator, None)
    kept = set(kept_exact)
    if approximate:
        kept_approximate, change = _holding(approximate, evaluator, evaluator.with_small_eps())
        kept, error = kept | set(kept_approximate), max(error, change)
    notes = tuple(
        f"evaluation contradicts the symmetry \u201c{g.words}\u201d, so it is left out"
        for g in generators
        if g not in kept
    )
    return tuple(g for g in generators if g in kept), error, notes


def _holding(
    generators: list[Generator], evaluator: Evaluator, small_eps: Evaluator | None
) -> tuple[list[Generator], float]:
    kept = generators
    error = change_under(draws(kept), evaluator, small_eps)
    if error is None:
        kept = [g for g in generators if change_under(draws([g]), evaluator, small_eps) is not None]
        error = change_under(draws(kept), evaluator, small_eps)
    # What holds one by one and not together is not known to hold.
    return (kept, error) if error is not None else ([], 0.0)


def change_under(
    elements: Sequence[Mapping[str, float | Tensor]],
    evaluator: Evaluator,
    small_eps: Evaluator | None,
) -> float | None:
    """Largest relative change of the outputs, or ``None`` where an element is no symmetry.

    Args:
        elements: factors by name.
        evaluator: of the network as it is.
        small_eps: of the same network with a negligible ε, where a change may be due to that.
    """
    largest = 0.0
    for element in elements:
        change = evaluator.change(element)
        if change > ROUNDING:
            if small_eps is None:
                return None
            if small_eps.change(element) > max(ROUNDING, SHRINKS * change):
                return None
        largest = max(largest, change)
    return largest
