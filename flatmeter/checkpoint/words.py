"""What a checkpoint says of itself: which network, arguments, data and loss it belongs to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from flatmeter.errors import CheckpointRefused
from flatmeter.importing import is_import_spec

#: Version of what :func:`flatmeter.save` writes, and the entry that it stands in.
FORMAT = 1
ENTRY = "flatmeter"

_BUILT_IN = ("zoo", "torchvision", "timm", "digits", "imagefolder")
_TYPES: Mapping[str, tuple[type, ...]] = {
    "model": (str,),
    "model_args": (Mapping,),
    "data": (str,),
    "loss": (str, Mapping),
}
_MAX_VALUES = 2_000
_MAX_TEXT = 20_000


def read_words(value: Any, stored: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The metadata of a checkpoint.

    Args:
        value: the file's object.
        stored: what the format said besides.
        where: the file, for messages.

    Returns:
        What :func:`flatmeter.save` wrote, field by field; under ``stored``, the plain values beside
        the weights of any other file; under ``code``, those fields that name a person's own code,
        which a file alone cannot have run.

    Raises:
        CheckpointRefused: flatmeter's own entry is of a newer version or broken.
    """
    entries = value if isinstance(value, Mapping) else {}
    if ENTRY not in entries:
        plain = {k: v for k, v in entries.items() if isinstance(k, str) and _is_plain(v)}
        found = {**plain, **stored}
        return {"stored": found} if found else {}
    entry = entries[ENTRY]
    _check(entry, where)
    words = {k: v for k, v in entry.items() if v is not None and k not in ("format", "code")}
    code = {k: words[k] for k in ("model", "data", "loss") if _names_code(words.get(k))}
    kept = {k: v for k, v in words.items() if k not in code}
    return {**kept, "code": code} if code else kept


def code_notes(words: Mapping[str, Any]) -> tuple[str, ...]:
    """What to tell people of the code that a checkpoint names."""
    flags = [f"--{field} {_spec(spec)}" for field, spec in words.get("code", {}).items()]
    said = "it names code, which a file alone cannot have run; where you trust it, add: "
    return (said + " ".join(flags),) if flags else ()


def _check(entry: Any, where: str) -> None:
    version = entry.get("format") if isinstance(entry, Mapping) else None
    if not isinstance(version, int):
        raise CheckpointRefused(f"its entry {ENTRY!r} is not what flatmeter writes", where=where)
    if version > FORMAT:
        raise CheckpointRefused(
            f"it was written by a newer flatmeter (format {version})",
            where=where,
            hint="pip install --upgrade flatmeter",
        )
    for name, types in _TYPES.items():
        said = entry.get(name)
        if said is not None and not isinstance(said, types):
            raise CheckpointRefused(
                f"its entry {ENTRY!r} gives {type(said).__name__} for {name}", where=where
            )


def _spec(spec: Any) -> str:
    return str(spec.get("name", "")) if isinstance(spec, Mapping) else str(spec)


def _names_code(spec: Any) -> bool:
    """The spec is an import path, as opposed to something that flatmeter brings along."""
    text = _spec(spec)
    return is_import_spec(text) and text.partition(":")[0] not in _BUILT_IN


def _is_plain(value: Any) -> bool:
    """Numbers, texts and small nests of them, as JSON can write them."""
    # An optimiser's state, which belongs to no description.
    if isinstance(value, Mapping) and "param_groups" in value:
        return False
    if sum(1 for _ in islice(_nest(value), _MAX_VALUES)) == _MAX_VALUES:
        return False
    try:
        return len(json.dumps(value)) <= _MAX_TEXT
    except (TypeError, ValueError, RecursionError):
        return False


def _nest(value: Any) -> Iterator[Any]:
    """Every value in a nest; endless for one that holds itself."""
    todo = [value]
    while todo:
        item = todo.pop()
        yield item
        if isinstance(item, Mapping):
            todo.extend(item.values())
        elif isinstance(item, (list, tuple)):
            todo.extend(item)
