"""Networks that are built once, and copied for every further checkpoint that names the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from flatmeter.free_memory import free_memory
from flatmeter.risk.module_copy import module_copy

Built = tuple[nn.Module, dict[str, Any]]
"""A network, and what results call it."""

KEPT = 8
"""Networks that are kept, those used last."""

SHARE = 1 / 16
"""Part of the free memory that a network may take to be kept."""

_PLAIN = (str, int, float, bool, type(None))


class Templates:
    """Networks as their factories gave them, which nobody ever loads weights into."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Built] = OrderedDict()

    def take(self, name: str, args: Mapping[str, Any], build: Callable[[], Built]) -> Built:
        """A network of its own: a copy where one was built before.

        Args:
            name: of the factory.
            args: that it is given.
            build: builds the network anew.
        """
        key = f"{name} {dict(args)!r}"
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            built = build()
            if not (_is_plain(args) and _is_small(built[0])):
                return built
            self._kept[key] = built
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        template, recipe = self._kept[key]
        own = _copy(template)
        # What cannot be copied is handed out itself, and built anew for the next.
        return (own, dict(recipe)) if own is not None else self._kept.pop(key)


def _is_plain(value: Any) -> bool:
    """Values that are the same where they are written the same."""
    if isinstance(value, Mapping):
        return all(_is_plain(item) for pair in value.items() for item in pair)
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return type(value) in _PLAIN


def _is_small(net: nn.Module) -> bool:
    """Of known shapes, and small enough to be kept beside the copies."""
    tensors = (*net.parameters(), *net.buffers())
    if any(map(is_lazy, tensors)):
        return False
    taken = sum(t.numel() * t.element_size() for t in tensors)
    return taken <= SHARE * free_memory(torch.device("cpu"))


def _copy(template: nn.Module) -> nn.Module | None:
    """A copy that shares no tensor with the template; ``None`` where there is none."""
    try:
        own = module_copy(template)
        shared = _places(own) & _places(template)
    except Exception:  # whatever the code of its layers raises
        return None
    return None if shared else own


def _places(net: nn.Module) -> set[int]:
    tensors = (*net.parameters(), *net.buffers())
    return {t.untyped_storage().data_ptr() for t in tensors if t.numel()}
