"""Weight normalisation that may be differentiated twice.

PyTorch's fused ``_weight_norm`` takes the norm for a constant in its second derivative, so that
Hessian products through it are quietly wrong (and not even symmetric).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode


class _Composed(TorchFunctionMode):
    """Replaces the fused operator by its definition, ``v (g / ‖v‖)``."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch._weight_norm:
            return _weight_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _weight_norm(v: torch.Tensor, g: torch.Tensor, dim: int = 0) -> torch.Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))


def has_weight_norm(module: nn.Module) -> bool:
    """Some weight of the network is normalised by PyTorch's ``weight_norm``, old or new."""
    return any(
        isinstance(m, _WeightNorm)
        or any(isinstance(hook, WeightNorm) for hook in m._forward_pre_hooks.values())
        for m in module.modules()
    )


def composed_weight_norm(needed: bool) -> AbstractContextManager[object]:
    """Within it weight normalisation is differentiated right; does nothing where not ``needed``."""
    return _Composed() if needed else nullcontext()
