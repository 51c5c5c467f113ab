"""Which architecture weights belong to, from their names and shapes alone."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from flatmeter.checkpoint.prefixes import strip_prefixes
from flatmeter.checkpoint.weight_norm import folded
from flatmeter.model.layout import Difference, Layout, Shape, compared
from flatmeter.model.layout_cache import LIBRARIES, layouts

_NEAREST = 3


@dataclass(frozen=True)
class Architecture:
    """A network by the flags that build it.

    Args:
        model: as for ``--model``.
        args: as for ``--model-arg``.
        layout: that it was recognised by.
    """

    model: str
    args: Mapping[str, Any]
    layout: Layout

    def __str__(self) -> str:
        return " ".join([self.model, *(f"{k}={_yaml(v)}" for k, v in self.args.items())])

    @property
    def flags(self) -> str:
        """What to type for it."""
        said = (f"--model-arg {k}={_yaml(v)}" for k, v in self.args.items())
        return " ".join([f"--model {self.model}", *said])


@dataclass(frozen=True)
class Inference:
    """What names and shapes say of the architecture.

    Args:
        exact: every network that they fit exactly.
        nearest: the three that differ least, where they fit none.
        says: the network's name according to the file, empty where it has none.
        notes: prefixes that were stripped for it.
    """

    exact: tuple[Architecture, ...]
    nearest: tuple[Difference, ...]
    says: str = ""
    notes: tuple[str, ...] = ()

    @cached_property
    def chosen(self) -> Architecture | None:
        """The only network that fits, or the only one of the name that the file says."""
        fitting = self.exact
        if self.says:
            fitting = tuple(a for a in self.exact if _is_called(a, self.says))
        return fitting[0] if len(fitting) == 1 else None


def infer(tensors: Mapping[str, Tensor], *, says: str = "", where: str = "") -> Inference:
    """Compare names and shapes with every network of torchvision, then of timm where installed.

    A network of torchvision goes before one of timm that has the same names and shapes.

    Args:
        tensors: weights and buffers by name, as they stand in the file.
        says: the network's name according to the file, such as timm's ``arch``.
        where: the file, for messages.

    Raises:
        CheckpointRefused: stripping the prefixes of wrappers would make two names one.
    """
    known: tuple[Layout, ...] = ()
    for library in LIBRARIES:
        more = layouts(library)
        if known and not more:
            break
        known += more
        found, notes = _named(tensors, known, where)
        exact = tuple(_exact(found, known))
        if any(_is_called(a, says) for a in exact) or (exact and not says):
            return Inference(exact, (), says, notes)
    nearest = () if exact else tuple(_nearest(found, known))
    return Inference(exact, nearest, says, notes)


def in_words(difference: Difference) -> str:
    """What differs, with the first names of each kind."""
    misshaped = [
        f"{name} {list(found)} instead of [{', '.join(map(str, wanted))}]"
        for name, found, wanted in difference.misshaped
    ]
    parts = [
        _some("missing", difference.missing),
        _some("unexpected", difference.unexpected),
        _some("of another shape", misshaped),
    ]
    return "; ".join(part for part in parts if part)


def as_architecture(difference: Difference) -> Architecture:
    """The network of a layout, with the arguments that the shapes tell."""
    return Architecture(difference.layout.model, difference.args, difference.layout)


def _named(
    tensors: Mapping[str, Tensor], known: Collection[Layout], where: str
) -> tuple[dict[str, Shape], tuple[str, ...]]:
    """Shapes under the names that some network has, or as many of them as possible; and notes."""
    whole = {layout.names for layout in known}
    pairless = folded(tensors)
    ways = [tensors] if pairless.keys() == tensors.keys() else [tensors, pairless]
    every = frozenset(itertools.chain.from_iterable(whole))

    def fits(names: Collection[str]) -> bool:
        return frozenset(compared(names)) in whole

    def nearly(names: Collection[str]) -> bool:
        return 2 * len(every & set(names)) > len(names)

    for wanted in (fits, nearly):
        for given in ways:
            renaming = strip_prefixes(list(given), wanted, where)
            if wanted(renaming.stored):
                break
        if wanted(renaming.stored):
            break
    stored = renaming.stored.items()
    return {name: tuple(given[old].shape) for name, old in stored}, renaming.notes


def _exact(found: Mapping[str, Shape], known: Collection[Layout]) -> Iterator[Architecture]:
    names = compared(found)
    for layout in known:
        if layout.names == names and not layout.compare(found).misshaped:
            yield from _variants(layout, found)


def _variants(layout: Layout, found: Mapping[str, Shape]) -> Iterator[Architecture]:
    """One for each value of the arguments that no shape shows."""
    args = layout.compare(found).args
    for values in itertools.product(*layout.silent.values()):
        yield Architecture(
            layout.model, {**args, **dict(zip(layout.silent, values, strict=True))}, layout
        )


def _nearest(found: Mapping[str, Shape], known: Collection[Layout]) -> list[Difference]:
    """Those that have anything in common, one for each network."""
    names = compared(found)
    close = sorted(known, key=lambda layout: -_overlap(names, layout))[: 8 * _NEAREST]
    best: dict[str, Difference] = {}
    for difference in sorted((one.compare(found) for one in close), key=lambda d: d.share):
        if difference.share < 1:
            best.setdefault(difference.layout.model, difference)
    return list(best.values())[:_NEAREST]


def _overlap(names: set[str], layout: Layout) -> float:
    return len(names & layout.names) / max(len(names | layout.names), 1)


def _is_called(architecture: Architecture, name: str) -> bool:
    own = architecture.model.rpartition(":")[2]
    return own.lower() == name.partition(".")[0].lower()


def _some(head: str, items: Collection[str]) -> str:
    if not items:
        return ""
    shown = ", ".join(list(items)[:3]) + (", …" if len(items) > 3 else "")
    return f"{len(items)} {head} ({shown})"


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
