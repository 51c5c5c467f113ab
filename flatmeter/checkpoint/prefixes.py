"""Prefixes that wrappers such as DDP and torch.compile put before the names of weights."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from flatmeter.checkpoint.other_names import other_names
from flatmeter.errors import CheckpointRefused

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
#: torch's AveragedModel counts here, beside weights that begin with ``module.``.
AVERAGED = "n_averaged"
#: What older versions of transformers stored though the configuration tells it: causal masks, the
#: numbers of positions, and the frequencies of rotations.
FOLLOWS = re.compile(r"(^|\.)(h\.\d+\.attn\.(masked_)?bias|position_ids|rotary_emb\.inv_freq)$")
#: What entries that hold averaged weights are called.
AVERAGE = re.compile(r"(^|[_.])(ema|swa|averaged?|avg)([_.]|$)")


@dataclass(frozen=True)
class Renaming:
    """Names in a network, and the names in the file that they stand for.

    Args:
        stored: name in the file by name in the network.
        notes: what was stripped.
    """

    stored: Mapping[str, str]
    notes: tuple[str, ...] = ()


def strip_prefixes(
    names: Collection[str], fits: Callable[[Collection[str]], bool], where: str
) -> Renaming:
    """Strip as little as makes the names fit the network.

    Tried in this order: nothing; wrappers' prefixes from the front, one after the other; wrappers'
    prefixes at any depth; each of these less one prefix that all names share; each of all these by
    the names of another time; then the same without averaged weights that stand beside others; and
    without what older versions of transformers stored beside weights.

    Args:
        names: in the file.
        fits: whether a set of names is that of the network.
        where: the file, for messages.

    Returns:
        The first renaming that fits; where none does, the one without any wrapper's prefix.

    Raises:
        CheckpointRefused: stripping would make two names one.
    """
    kept, averaged = _without_count(names)
    tried = list(_stripped(kept, where))
    fewer = [less for less in (_without_averages(kept), _without_constants(kept)) if less]
    rest = (_tried(list(_stripped(less, where)), note) for less, note in fewer)
    every = itertools.chain(_tried(tried), itertools.chain.from_iterable(rest))
    chosen = next((r for r in every if fits(r.stored.keys())), tried[-1])
    return Renaming(chosen.stored, (*averaged, *chosen.notes))


def without_wrappers(name: str) -> str:
    """The name without the prefixes of wrappers, at any depth."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _without_count(names: Collection[str]) -> tuple[list[str], tuple[str, ...]]:
    others = [name for name in names if name != AVERAGED]
    if len(others) == len(names) or not all(name.startswith("module.") for name in others):
        return list(names), ()
    return others, ("these are averaged weights (n_averaged is there)",)


def _without_averages(names: Collection[str]) -> tuple[list[str], str] | None:
    """The names but for those under a prefix that says averaged weights, and a note."""
    firsts = dict.fromkeys(name.partition(".")[0] for name in names if "." in name)
    averages = [first for first in firsts if AVERAGE.search(first)]
    if not averages or len(averages) == len(firsts):
        return None
    others = [name for name in names if name.partition(".")[0] not in averages]
    return others, f"averaged weights under {', '.join(averages)} left out (--ema takes them)"


def _without_constants(names: Collection[str]) -> tuple[list[str], str] | None:
    """The names but for constants that older versions of transformers stored, and a note."""
    others = [name for name in names if not FOLLOWS.search(name)]
    if len(others) == len(names):
        return None
    return others, f"{len(names) - len(others)} constants of an older transformers left out"


def _tried(stripped: Collection[Renaming], *notes: str) -> Iterator[Renaming]:
    """Every renaming that may fit, those that change least first."""
    shorter = [r for r in map(_less_one_prefix, stripped) if r is not None]
    plain = [Renaming(r.stored, (*notes, *r.notes)) for r in (*stripped, *shorter)]
    yield from plain
    for renaming in plain:
        for other, note in other_names(renaming.stored):
            stored = {name: renaming.stored[old] for name, old in other.items()}
            yield Renaming(stored, (*renaming.notes, note))


def _stripped(names: Collection[str], where: str) -> Iterator[Renaming]:
    current = Renaming({name: name for name in names})
    yield current
    while (first := _shared(current)) in WRAPPERS:
        current = _drop(current, str(first))
        yield current
    bare: dict[str, str] = {}
    for name in names:
        short = without_wrappers(name)
        if short in bare or not short:
            twin = bare.get(short, "nothing")
            raise CheckpointRefused(
                f"without the prefixes of wrappers {name} and {twin} would have one name",
                where=where,
                hint="save model.module.state_dict() (DDP) or model._orig_mod.state_dict() "
                "(torch.compile)",
            )
        bare[short] = name
    gone = sorted({part for name in names for part in name.split(".") if part in WRAPPERS})
    yield Renaming(bare, tuple(f"prefix {part}. stripped" for part in gone))


def _less_one_prefix(renaming: Renaming) -> Renaming | None:
    first = _shared(renaming)
    return _drop(renaming, first) if first is not None else None


def _shared(renaming: Renaming) -> str | None:
    """The first part of all names, if it is one and none would be left empty."""
    if not all("." in name for name in renaming.stored):
        return None
    firsts = {name.partition(".")[0] for name in renaming.stored}
    return firsts.pop() if len(firsts) == 1 else None


def _drop(renaming: Renaming, first: str) -> Renaming:
    shorter = {name.partition(".")[2]: stored for name, stored in renaming.stored.items()}
    note = f"prefix {first}. stripped"
    notes = renaming.notes if note in renaming.notes else (*renaming.notes, note)
    return Renaming(shorter, notes)
