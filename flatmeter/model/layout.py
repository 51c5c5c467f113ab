"""The names and shapes that an architecture has weights under, and how others differ from them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

Shape = Sequence[int]

#: Not compared: they change no output, and older files lack them.
OPTIONAL = ("num_batches_tracked", "_extra_state")


def compared(names: Collection[str]) -> set[str]:
    """The names of a state_dict that tell architectures apart."""
    return {name for name in names if name.rpartition(".")[2] not in OPTIONAL}


@dataclass(frozen=True)
class Difference:
    """How names and shapes of a file differ from a layout's.

    Args:
        layout: that is compared with.
        missing: names that the file lacks.
        unexpected: names that the layout lacks.
        misshaped: name, shape in the file, shape in the layout (an open number by its name).
        args: what the shapes say of the open arguments.
    """

    layout: Layout
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[tuple[str, Shape, Sequence[int | str]], ...]
    args: Mapping[str, Any]

    @property
    def share(self) -> float:
        """Part of all names that differ, 0 for an exact match and 1 for nothing in common."""
        wrong = len(self.missing) + len(self.unexpected) + len(self.misshaped)
        return wrong / max(len(self.layout.shapes) + len(self.unexpected), 1)


@dataclass(frozen=True)
class Layout:
    """An architecture by the names and shapes of its weights and buffers.

    Args:
        model: its name for ``--model``.
        args: arguments of this variant of it.
        shapes: by name. Instead of a number there may be the name of the argument that decides it.
        defaults: values of such arguments that need not be said.
        side: usual height and width of the images.
        patch: side of the patches that ``image_size`` is counted in, where it is open.
        silent: arguments that change the outputs and that no shape shows, with their values.
    """

    model: str
    args: Mapping[str, Any]
    shapes: Mapping[str, tuple[int | str, ...]]
    defaults: Mapping[str, int] = field(default_factory=dict)
    side: int = 224
    patch: int = 0
    silent: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @cached_property
    def names(self) -> frozenset[str]:
        """The names alone."""
        return frozenset(self.shapes)

    def compare(self, found: Mapping[str, Shape]) -> Difference:
        """How names and shapes, as they stand in a file, differ from these."""
        names = compared(found)
        others = names - self.names
        read: dict[str, int] = {}
        misshaped = []
        for name, wanted in self.shapes.items():
            if name in names and not self._agrees(found[name], wanted, read):
                misshaped.append((name, tuple(found[name]), wanted))
        return Difference(
            layout=self,
            missing=tuple(name for name in self.shapes if name not in names),
            unexpected=tuple(name for name in found if name in others),
            misshaped=tuple(misshaped),
            args={**self.args, **{k: v for k, v in read.items() if self.defaults.get(k) != v}},
        )

    def _agrees(self, found: Shape, wanted: Sequence[int | str], read: dict[str, int]) -> bool:
        """Whether a shape fits; what it says of open arguments is added to ``read``."""
        if len(found) != len(wanted):
            return False
        said = {}
        for number, dim in zip(found, wanted, strict=True):
            if isinstance(dim, int):
                if number != dim:
                    return False
                continue
            value = self._image_size(number) if dim == "image_size" else number
            if value < 1 or read.get(dim, value) != value:
                return False
            said[dim] = value
        read.update(said)
        return True

    def _image_size(self, tokens: int) -> int:
        """Side of the images that give this number of tokens, the class token among them."""
        root = math.isqrt(max(tokens - 1, 0))
        return root * self.patch if root * root == tokens - 1 else 0
