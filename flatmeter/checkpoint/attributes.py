"""Attributes that a pickle sets on its containers and tensors."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from typing import Any

from torch import Tensor

_OPEN = (dict, Tensor, Namespace)


def check_attributes(value: Any) -> None:
    """Refuse what a pickle put in the place of methods of the objects in a nest.

    A pickle may give a mapping ``keys`` of its own, or a tensor a ``numel``, that is a number or
    one of the admitted functions; whoever calls it would be misled.

    Args:
        value: nested containers and tensors, which may hold themselves.

    Raises:
        ValueError: an attribute stands for a method.
    """
    seen: set[int] = set()
    todo = [value]
    while todo:
        item = todo.pop()
        if id(item) not in seen:
            seen.add(id(item))
            own = getattr(item, "__dict__", {}) if isinstance(item, _OPEN) else {}
            _check(item, own)
            todo.extend(_inside(item, own))


def _check(item: Any, own: Any) -> None:
    for name in own:
        if not isinstance(name, str) or name.startswith("__") or hasattr(type(item), name):
            raise ValueError(f"an attribute {str(name)[:40]!r} put on a {type(item).__name__}")


def _inside(item: Any, own: Any) -> Iterable[Any]:
    if isinstance(item, Namespace):
        return list(own.values())
    if isinstance(item, dict):
        return [*dict.keys(item), *dict.values(item)]
    return item if isinstance(item, list | tuple | set) else ()
