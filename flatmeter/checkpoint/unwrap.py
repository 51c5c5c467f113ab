"""Where in a file the weights are: known wrappers in a fixed order, or what ``--key`` names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from flatmeter.checkpoint.prefixes import AVERAGE
from flatmeter.errors import CheckpointRefused, UsageError

#: Looked for in this order.
WRAPPERS = (
    "model",
    "state_dict",
    "model_state_dict",
    "module",
    "net",
    "network",
    "params",
    "weights",
    "last",
    "app",  # PyTorch's recipe for distributed checkpoints
)
#: Marks of Lightning, timm and flatmeter, whose weights are under ``state_dict`` first.
_MARKS = ("pytorch-lightning_version", "arch", "flatmeter")
_DEEPSPEED = ("ds_version", "ds_config")
#: Bounds on the search, since a file may hold a nest that shares its parts over and over.
_DEPTH = 4
_BUDGET = 20_000


@dataclass(frozen=True)
class Found:
    """Weights in a file.

    Args:
        value: the mapping that holds them.
        key: its dotted path, empty for the file's own object.
        notes: what else could have been meant.
    """

    value: Mapping[str, Any]
    key: str
    notes: tuple[str, ...] = ()


def unwrap(value: Any, key: str | None, where: str) -> Found:
    """Find the weights.

    The first of :data:`WRAPPERS` that holds tensors by name is taken, else the value itself if it
    is tensors by name. Averaged weights (EMA) are taken only where ``key`` says so: see
    :func:`averaged`.

    Args:
        value: the file's object.
        key: dotted path that a person gave.
        where: the file, for messages.

    Raises:
        CheckpointRefused: there are none, or no known name says which are meant.
        UsageError: nothing, or no weights, stand under ``key``.
    """
    if key is not None:
        return _keyed(value, key, where)
    if not isinstance(value, Mapping):
        raise CheckpointRefused(
            f"it holds {type(value).__name__}, not weights by name",
            where=where,
            hint="data belong after --data; weights are saved by torch.save(model.state_dict(), …)",
        )
    if any(mark in value for mark in _DEEPSPEED):
        raise CheckpointRefused(
            "this is a part of a DeepSpeed checkpoint",
            where=where,
            hint="gather its parts into one file: python zero_to_fp32.py FOLDER OUTPUT",
        )
    places = candidates(value)
    marked = any(mark in value for mark in _MARKS)
    for name in ("state_dict", *WRAPPERS) if marked else WRAPPERS:
        inside = [place for place in places if place == name or place.startswith(f"{name}.")]
        if len(inside) == 1:
            return Found(_at(value, inside[0]), inside[0], _notes(value, inside[0], places))
        if inside:
            raise _undecided(inside, where)
    if "" in places:
        return Found(value, "")
    raise _undecided(places, where) if places else _none(value, where)


def averaged(value: Any, where: str) -> str:
    """Dotted path of the averaged weights (EMA).

    Args:
        value: the file's object.
        where: the file, for messages.

    Raises:
        UsageError: there are none, or several.
    """
    places = candidates(value)
    found = [place for place in places if AVERAGE.search(place)]
    found = found or [p for p in _prefixes(value, places) if AVERAGE.search(p)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"several entries hold averaged weights: {', '.join(found)}",
            where=where,
            hint=f"say which, instead of --ema: --key {found[0]}",
        )
    named = [place for place in places if place]
    raise UsageError(
        "no entry of it holds averaged weights"
        + (f"; weights stand under: {', '.join(named)}" if named else ""),
        where=where,
        hint="leave --ema out" + (", or name one of these by --key" if named else ""),
    )


def candidates(value: Any) -> tuple[str, ...]:
    """Dotted paths of all mappings from names to tensors, those of optimisers left out."""
    return tuple(_walk(value, "", _DEPTH, [_BUDGET]))


def _walk(value: Any, path: str, depth: int, budget: list[int]) -> Iterator[str]:
    budget[0] -= 1
    if depth == 0 or budget[0] < 0 or not isinstance(value, Mapping) or "param_groups" in value:
        return
    inner = [(k, v) for k, v in value.items() if isinstance(k, str) and isinstance(v, Mapping)]
    below = [p for k, v in inner for p in _walk(v, f"{path}.{k}" if path else k, depth - 1, budget)]
    # A mapping that holds weights further inside is a wrapper, whatever else stands in it.
    if not below and _is_weights(value):
        yield path
    yield from below


def _is_weights(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and all(isinstance(name, str) for name in value)
        and any(isinstance(entry, Tensor) for entry in value.values())
    )


def _notes(value: Any, taken: str, places: tuple[str, ...]) -> tuple[str, ...]:
    # Numbers in tensors, as callbacks keep their best ones, are no weights that might be meant.
    rest = [p for p in places if p != taken and any(map(_has_sides, _whole(value, p).values()))]
    if not rest:
        return ()
    ema = any(AVERAGE.search(place) for place in rest)
    why = "--ema takes the averaged ones" if ema else "--key takes another"
    return (f"weights taken from {taken!r}; there are also {', '.join(rest)} ({why})",)


def _has_sides(entry: Any) -> bool:
    return isinstance(entry, Tensor) and entry.dim() > 0


def _undecided(places: list[str] | tuple[str, ...], where: str) -> CheckpointRefused:
    if len(places) == 1:
        said = f"the only weights stand under {places[0]!r}, which is no usual name for them"
    else:
        said = f"several entries could be the weights: {', '.join(places)}"
    return CheckpointRefused(said, where=where, hint=f"say which: --key {places[0]}")


def _none(value: Mapping[Any, Any], where: str) -> CheckpointRefused:
    shown = ", ".join(map(str, list(value)[:10])) or "nothing"
    return CheckpointRefused(f"it holds no weights by name; it has: {shown}", where=where)


def _keyed(value: Any, key: str, where: str) -> Found:
    found = _at(value, key)
    if _is_weights(found):
        return Found(found, key)
    places = candidates(value)
    if key in _prefixes(value, places):
        return Found(_under(value, key, places), key)
    others = [place for place in places if place]
    what = "nothing stands" if found is None else "no weights by name stand"
    raise UsageError(
        f"{what} under {key!r}",
        where=where,
        hint=f"--key can be: {', '.join(others)}" if others else "leave --key out",
    )


def _prefixes(value: Any, places: Sequence[str]) -> tuple[str, ...]:
    """Dotted paths of weights, each with the first part of names in them."""
    return tuple(
        dict.fromkeys(
            f"{place}.{first}".lstrip(".")
            for place in places
            for first in (name.partition(".")[0] for name in _whole(value, place) if "." in name)
        )
    )


def _under(value: Any, key: str, places: Sequence[str]) -> dict[str, Any]:
    """The entries whose names begin as ``key`` ends, without that beginning."""
    for place in places:
        start = key[len(place) :].lstrip(".") + "."
        if key.startswith(place):
            inside = _whole(value, place).items()
            found = {k[len(start) :]: v for k, v in inside if k.startswith(start)}
            if found:
                return found
    return {}


def _whole(value: Any, place: str) -> Mapping[str, Any]:
    found = _at(value, place) if place else value
    return found if isinstance(found, Mapping) else {}


def _at(value: Any, key: str) -> Any:
    """What stands under a dotted path, of which a part may hold dots itself."""
    if not isinstance(value, Mapping):
        return None
    if key in value:
        return value[key]
    for dot in (match.start() for match in re.finditer(r"\.", key)):
        found = _at(value.get(key[:dot]), key[dot + 1 :])
        if found is not None:
            return found
    return None
