"""Networks evaluated in float64 throughout, with another ε: in layers, in calls and written out.

Some layers compute in float32 whatever they are given, and some have their ε in the code and not
in an attribute. Neither should decide what is a symmetry.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.amp.autocast_mode import autocast
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from flatmeter.risk.epsilon import scaled_eps
from flatmeter.symmetry.written_eps import LARGEST

LOWER = (torch.float32, torch.float16, torch.bfloat16)
CASTS = (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16)
ADDITIONS = ("add", "add_", "__add__", "__radd__", "__iadd__")


@contextmanager
def ideal(module: nn.Module, eps_factor: float = 1.0) -> Iterator[None]:
    """Compute in float64 inside the block, with every ε multiplied.

    Args:
        module: the network, in float64.
        eps_factor: of the layers' ε, and of small numbers that are added.
    """
    with scaled_eps(module, eps_factor), in_double(), _Ideal(eps_factor):
        yield


@contextmanager
def in_double() -> Iterator[None]:
    """New tensors are float64 inside the block, and nothing is cast to a lower type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with (
            patch.object(autocast, "__enter__", lambda self: self),
            patch.object(autocast, "__exit__", lambda self, *error: None),
        ):
            yield
    finally:
        torch.set_default_dtype(before)


class _Ideal(TorchFunctionMode):
    def __init__(self, eps_factor: float) -> None:
        super().__init__()
        self.eps_factor = eps_factor

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in CASTS:
            return args[0].double()
        args, kwargs = tree_map(_raised, (args, kwargs))
        if self.eps_factor != 1.0:
            if getattr(func, "__name__", "") in ADDITIONS:
                args = tuple(self._smaller(x) for x in args)
            elif place := _eps_argument(func, len(args), tuple(kwargs)):
                args, kwargs = self._with_eps(place, args, kwargs)
        return func(*args, **kwargs)

    def _smaller(self, value: Any) -> Any:
        is_eps = isinstance(value, float) and 0 < value <= LARGEST
        return value * self.eps_factor if is_eps else value

    def _with_eps(
        self, place: int | str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if isinstance(place, str):
            return args, {**kwargs, place: self._smaller(kwargs[place])}
        return (*args[:place], self._smaller(args[place]), *args[place + 1 :]), kwargs


def _raised(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in LOWER else value


@cache
def _eps_argument(func: Callable[..., Any], given: int, named: tuple[str, ...]) -> int | str | None:
    """Where a function of Python is given its ε, by position or by name."""
    if "eps" in named:
        return "eps"
    try:
        names = list(inspect.signature(func).parameters)
    except (TypeError, ValueError):
        return None
    place = names.index("eps") if "eps" in names else given
    return place if place < given else None
