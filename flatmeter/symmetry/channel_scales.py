"""One scale for each channel: identifiers of what every entry of a parameter gains and loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scale:
    """The identifiers of a tensor's entries.

    Args:
        plus, minus: int64, of the tensor's number of dimensions; a dimension along which nothing
            varies has size one. A negative identifier stands for the opposite of its scale.
    """

    plus: Tensor
    minus: Tensor

    @property
    def is_fixed(self) -> bool:
        """Holds still whatever comes of the other identifiers."""
        return not (self.plus.any() or self.minus.any())

    def factor(self, e: Tensor) -> Tensor:
        """What the entries are multiplied by, from the factor ``[count]`` of each identifier."""
        return signed(e, self.plus) / signed(e, self.minus)

    def squeezed(self) -> Scale:
        """Dimensions along which nothing varies, cut to size one."""
        return Scale(_narrowed(self.plus), _narrowed(self.minus))


def signed(e: Tensor, ids: Tensor) -> Tensor:
    """The factors of identifiers, from the factor ``[count]`` of each: inverse where negative."""
    ids = ids.to(e.device)
    factors = e[ids.abs()]
    return torch.where(ids < 0, 1 / factors, factors) if bool((ids < 0).any()) else factors


def fixed(dims: int) -> Scale:
    """The scale of something that holds still."""
    zero = torch.zeros([1] * dims, dtype=torch.long)
    return Scale(zero, zero)


@dataclass(frozen=True)
class ChannelScales:
    """One scale for each channel: an entry moves by ``s[plus] − s[minus]``, ``s[−i] = −s[i]``.

    Identifier 0 stands for the scale that is fixed: ``s[0]`` counts as zero. Identifiers are kept
    by tensor and without repetition, since one for every entry would outweigh the parameters.

    Args:
        laws: the identifiers of each parameter tensor, in the order of the flat vector.
        shapes: of the tensors.
        count: number of identifiers, 0 included.
        null: of each tensor, whether it is a bias that changes nothing whatever its value.
    """

    laws: tuple[Scale, ...]
    shapes: tuple[torch.Size, ...]
    count: int
    null: tuple[bool, ...]

    @property
    def plus(self) -> Tensor:
        """The identifier that every entry of the flat vector gains: ``[P]`` int32, on the CPU."""
        return self._flat([law.plus.int() for law in self.laws])

    @property
    def minus(self) -> Tensor:
        """The identifier that every entry of the flat vector loses: ``[P]`` int32, on the CPU."""
        return self._flat([law.minus.int() for law in self.laws])

    def factors(self, s: Tensor) -> Tensor:
        """What every entry is multiplied by ``[P]``.

        Args:
            s: ``[count]`` log-scales; that of identifier 0 is ignored.
        """
        e = s.exp()
        e[0] = 1.0
        return self._flat([law.factor(e) for law in self.laws])

    def act(self, s: Tensor, flat: Tensor) -> Tensor:
        """The flat vector ``[P]`` with every channel scaled by ``s [count]``."""
        return flat * self.factors(s.to(flat.device, flat.dtype))

    def _flat(self, values: Sequence[Tensor]) -> Tensor:
        pairs = zip(values, self.shapes, strict=True)
        return torch.cat([value.expand(shape).reshape(-1) for value, shape in pairs])


def _narrowed(ids: Tensor) -> Tensor:
    for dim in range(ids.ndim):
        first = ids.narrow(dim, 0, 1) if ids.shape[dim] else ids
        if ids.stride(dim) == 0 or bool((ids == first).all()):
            ids = first
    return ids
