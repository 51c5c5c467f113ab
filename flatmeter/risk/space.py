"""The trainable parameters of a network as one flat vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ParameterSpace:
    """Names, shapes and offsets of the trainable tensors in one flat vector ``[P]``.

    Args:
        names: in the order of ``named_parameters()``; a tied tensor once, by its first name.
        shapes: of each tensor.
        frozen: names of parameters that do not require a gradient and are held fixed.
        tied: further names of a tensor that is used under several, by its first name.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    frozen: tuple[str, ...] = ()
    tied: Mapping[str, tuple[str, ...]] | None = None

    @classmethod
    def from_module(cls, module: nn.Module) -> ParameterSpace:
        """The space of ``module``'s parameters that require a gradient."""
        trainable = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        frozen = tuple(n for n, p in module.named_parameters() if not p.requires_grad)
        first = {id(p): n for n, p in trainable}
        tied: dict[str, tuple[str, ...]] = {}
        for name, parameter in module.named_parameters(remove_duplicate=False):
            owner = first.get(id(parameter))
            if owner is not None and owner != name:
                tied[owner] = (*tied.get(owner, ()), name)
        return cls(
            names=tuple(n for n, _ in trainable),
            shapes=tuple(p.shape for _, p in trainable),
            frozen=frozen,
            tied=tied,
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each tensor."""
        return tuple(shape.numel() for shape in self.shapes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each tensor starts in the flat vector; the last entry is P."""
        return tuple(accumulate(self.sizes, initial=0))

    @property
    def dim(self) -> int:
        """P, the number of trainable numbers."""
        return sum(self.sizes)

    def slice(self, name: str) -> slice:
        """The part of the flat vector that holds the tensor ``name``."""
        i = self.names.index(name)
        return slice(self.offsets[i], self.offsets[i + 1])

    def flatten(self, tensors: Mapping[str, Tensor] | Sequence[Tensor]) -> Tensor:
        """One flat vector ``[P]`` from a tensor for every name, or from a sequence in order."""
        values = [tensors[n] for n in self.names] if isinstance(tensors, Mapping) else tensors
        return torch.cat([t.reshape(-1) for t in values])

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of ``flat`` (``[P]`` or ``[k, P]``) by name, shaped as the tensors (``[k, …]``)."""
        lead = flat.shape[:-1]
        parts = flat.split(self.sizes, dim=-1)
        return {
            n: part.reshape((*lead, *shape))
            for n, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }

    def block_norms(self, flat: Tensor) -> Tensor:
        """Euclidean norm of each tensor of ``flat [P]``, as ``[n]`` in float64."""
        return torch.stack([p.double().norm() for p in flat.split(self.sizes)])

    def spread(self, values: Tensor) -> Tensor:
        """One value per tensor ``[n]`` repeated over its entries: ``[P]``."""
        sizes = torch.tensor(self.sizes, device=values.device)
        return values.repeat_interleave(sizes, dim=0)
