"""How many bytes of tensors a piece of work has alive at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_CONVOLUTIONS = frozenset(
    {torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default}
)


class Footprint(TorchDispatchMode):
    """Counts the storages that operators make while it is entered, until each is freed.

    What an operator needs for itself while it runs is not seen. A backward pass runs on threads of
    its own on a GPU, where :func:`peak_bytes` asks the allocator instead.

    Attributes:
        live: bytes that are alive now.
        peak: most bytes that were alive at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and count what it made."""
        kwargs = kwargs or {}
        # What comes in was counted before, or was there before.
        self._seen.update(_storages((args, kwargs)))
        out = func(*args, **kwargs)
        for storage in _storages(out):
            self._count(storage)
        if func in _CONVOLUTIONS:
            self.peak = max(self.peak, self.live + _workspace(args, out))
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size


def _workspace(args: Any, out: Any) -> int:
    """What a convolution on the CPU needs for itself.

    In float32 copies in another layout of what comes in and goes out; in float64 the unfolded
    inputs, a filter's size for each output position.
    """
    given = [t for t in args if isinstance(t, Tensor)]
    if given[0].dtype != torch.float64:
        return sum(t.nbytes for t in [*given, *tree_leaves(out)] if isinstance(t, Tensor))
    backward = not isinstance(out, Tensor)
    result, weight = (given[0], given[2]) if backward else (out, given[1])
    return result.nbytes // weight.shape[0] * (weight[0].numel())


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def peak_bytes(work: Callable[[Callable[[], int]], None], device: torch.device) -> int:
    """Most bytes that ``work`` has alive at once, beyond what was alive before.

    Args:
        work: given a function that tells the bytes alive at the moment.
        device: where it allocates.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = int(torch.cuda.memory_allocated(device))
        torch.cuda.reset_peak_memory_stats(device)
        work(lambda: int(torch.cuda.memory_allocated(device)) - before)
        return int(torch.cuda.max_memory_allocated(device)) - before
    footprint = Footprint()
    with footprint:
        work(lambda: footprint.live)
    return footprint.peak
