"""Which architecture weights belong to, from their names and shapes alone."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml
from torch import Tensor

from flatmeter.checkpoint.prefixes import strip_prefixes
from flatmeter.checkpoint.weight_norm import folded
from flatmeter.model.layout import Difference, Layout, Shape, compared
from flatmeter.model.layout_cache import LIBRARIES, layouts

_NEAREST = 3
_FEWEST = 20


@dataclass(frozen=True)
class Architecture:
    """A network by the flags that build it.

    Args:
        model: as for ``--model``.
        args: as for ``--model-arg``.
        side: usual height and width of the images.
    """

    model: str
    args: Mapping[str, Any]
    side: int | None = None

    def __str__(self) -> str:
        return " ".join([self.model, *(f"{k}={_yaml(v)}" for k, v in self.args.items())])

    @property
    def flags(self) -> list[str]:
        """Words to type for it."""
        said = (["--model-arg", f"{k}={_yaml(v)}"] for k, v in self.args.items())
        return ["--model", self.model, *itertools.chain.from_iterable(said)]


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


def infer(
    tensors: Mapping[str, Tensor],
    *,
    says: str = "",
    where: str = "",
    tell: Callable[[str], None] = warnings.warn,
) -> Inference:
    """Compare names and shapes with every network of torchvision, then of timm where installed.

    A network of torchvision goes before one of timm that has the same names and shapes. Weights
    that are plainly of no network of images are not compared with timm's.

    Args:
        tensors: weights and buffers by name, as they stand in the file.
        says: the network's name according to the file, such as timm's ``arch``.
        where: the file, for messages.
        tell: given a sentence before minutes are spent.

    Raises:
        CheckpointRefused: stripping the prefixes of wrappers would make two names one.
    """
    known: tuple[Layout, ...] = ()
    for library in LIBRARIES:
        if known and not _many(tensors):
            break
        more = layouts(library, tell)
        if known and not more:
            break
        known += more
        found, notes = _named(tensors, known, where)
        exact = tuple(_exact(found, known))
        if any(_is_called(a, says) for a in exact) or (exact and not says):
            return Inference(exact, (), says, notes)
    nearest = () if exact else tuple(_nearest(found, known))
    return Inference(exact, nearest, says, notes)


def _many(tensors: Mapping[str, Tensor]) -> bool:
    """As many weights as the smallest network of timm, with a convolution among them."""
    return len(tensors) >= _FEWEST and any(t.dim() == 4 for t in tensors.values())


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
    return Architecture(difference.layout.model, difference.args)


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
        silent = dict(zip(layout.silent, values, strict=True))
        yield Architecture(layout.model, {**args, **silent}, layout.side)


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
    return _plain(own) == _plain(name.partition(".")[0])


def _plain(name: str) -> str:
    """Letters and digits, so that ResNet-18 is resnet18."""
    return "".join(c for c in name.lower() if c.isalnum())


def _some(head: str, items: Collection[str]) -> str:
    if not items:
        return ""
    shown = ", ".join(list(items)[:3]) + (", …" if len(items) > 3 else "")
    return f"{len(items)} {head} ({shown})"


def _yaml(value: Any) -> str:
    """As ``--model-arg`` reads it."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=math.inf)
    return text.removesuffix("...\n").strip()
