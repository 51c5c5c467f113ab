"""The scaling symmetries of a network: log-scales under which its function does not change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from flatmeter.risk.space import ParameterSpace
from flatmeter.symmetry.channel_scales import ChannelScales
from flatmeter.symmetry.kinds import Kind


@dataclass(frozen=True, eq=False)
class Generator:
    """One independent symmetry.

    Args:
        words: what it does, such as ``fc1.weight, fc1.bias up; fc2.weight down``.
        moves: the log-scale of every tensor that it moves, by name.
        exact: it holds to rounding, not only as far as ε in a normalisation is negligible.
        kind: which sort of rescaling it is.
    """

    words: str
    moves: Mapping[str, int]
    exact: bool = True
    kind: Kind = "between layers"

    @classmethod
    def of(
        cls, moves: Mapping[str, int], *, exact: bool, kind: Kind = "between layers"
    ) -> Generator:
        """A generator with its words."""
        return cls(words=in_words(moves), moves=dict(moves), exact=exact, kind=kind)


def in_words(moves: Mapping[str, int]) -> str:
    """What a vector of integer log-scales does, as a person would say it.

    Tensors that scale by a multiple of the common step carry it: ``fc3.weight down 2``.
    """
    if len(moves) == 1:
        return f"{next(iter(moves))} alone"
    parts = []
    for steps in sorted(set(moves.values()), key=lambda k: (k < 0, abs(k))):
        names = ", ".join(name for name, k in moves.items() if k == steps)
        size = f" {abs(steps)}" if abs(steps) > 1 else ""
        parts.append(f"{names} {'up' if steps > 0 else 'down'}{size}")
    return "; ".join(parts)


@dataclass(frozen=True)
class SymmetryGroup:
    """The linear space A of log-scales ``a`` with ``f(e^{a_1} w_1, …, e^{a_n} w_n) = f(w)``.

    Args:
        names: of the n parameter tensors.
        basis: E ``[n, d]`` float64, small integers; its columns span A.
        generators: what each column does.
        unknown_operators: operators without a rule, by name, with how often they occur; they
            hold their tensors fixed and may hide symmetries.
        error: largest relative change of the outputs under random elements, as evaluated.
        exact_error: the same under elements of which nothing depends on an ε.
        notes: what a reader should know, such as symmetries that evaluation contradicted.
        channels: the finer scales of single channels.
    """

    names: tuple[str, ...]
    basis: np.ndarray
    generators: tuple[Generator, ...]
    channels: ChannelScales
    unknown_operators: Mapping[str, int] = field(default_factory=dict)
    error: float = 0.0
    exact_error: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def dim(self) -> int:
        """d, the number of independent symmetries."""
        return int(self.basis.shape[1])

    def scales(self, u: np.ndarray) -> np.ndarray:
        """The log-scales ``[n]`` with coordinates ``u [d]``."""
        return np.asarray(self.basis @ np.asarray(u, dtype=np.float64))

    def random(self, generator: torch.Generator, size: float = 1.0) -> np.ndarray:
        """Random log-scales ``[n]`` in A, the largest of them ``±size``.

        Args:
            generator: on the CPU.
            size: largest absolute log-scale.
        """
        u = torch.randn(self.dim, generator=generator, dtype=torch.float64).numpy()
        a = self.scales(u)
        largest = float(np.abs(a).max(initial=0.0))
        return a * (size / largest) if largest > 0 else a

    def act(self, a: np.ndarray | Tensor, flat: Tensor, space: ParameterSpace) -> Tensor:
        """The flat vector ``[P]`` with tensor l multiplied by ``e^{a_l}``."""
        scales = torch.as_tensor(a, dtype=torch.float64).exp().to(flat.device, flat.dtype)
        return flat * space.spread(scales)

    def vertical(self, flat: Tensor, space: ParameterSpace) -> Tensor:
        """Directions along which the function is constant, ``(a_l w_l)`` per column: ``[d, P]``."""
        basis = torch.as_tensor(self.basis, device=flat.device, dtype=flat.dtype)
        return space.spread(basis).T * flat
