"""Weights into a network, strictly: every one of them, or a list of what differs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from flatmeter.checkpoint.checkpoint import Checkpoint
from flatmeter.checkpoint.prefixes import Renaming, strip_prefixes
from flatmeter.checkpoint.weight_norm import folded
from flatmeter.errors import ArchitectureMismatch, CheckpointRefused

_SHOWN = 10
#: Counts and extra states may be absent: they change no output.
_OPTIONAL = ("num_batches_tracked", "_extra_state")


class Wanted:
    """The names that a network has weights and buffers under.

    Args:
        model: the network.
    """

    def __init__(self, model: nn.Module) -> None:
        state = model.state_dict(keep_vars=True)
        self.tensors: dict[str, Tensor] = {k: v for k, v in state.items() if torch.is_tensor(v)}
        self.names = set(state)
        owners: dict[int, list[str]] = {}
        for name, tensor in self.tensors.items():
            owners.setdefault(id(tensor), []).append(name)
        self._tied = {name: group for group in owners.values() for name in group}

    def missing(self, names: Collection[str]) -> list[str]:
        """Names without weights; of tied ones a single name is enough."""
        return [
            name
            for name in self.tensors
            if name not in names
            and name.rpartition(".")[2] not in _OPTIONAL
            and not any(twin in names for twin in self._tied[name])
        ]

    def torn(self, state: Mapping[str, Tensor]) -> list[str]:
        """Names that are one tensor here, but differ from their twin in ``state``."""
        firsts = {name: next(t for t in self._tied[name] if t in state) for name in self._in(state)}
        return [n for n, first in firsts.items() if not torch.equal(state[n], state[first])]

    def _in(self, state: Mapping[str, Tensor]) -> list[str]:
        return [name for name in self.tensors if name in state and len(self._tied[name]) > 1]

    def unexpected(self, names: Collection[str]) -> list[str]:
        """Names that the network does not have."""
        return [name for name in names if name not in self.names]

    def fits(self, names: Collection[str]) -> bool:
        """The names are those of the network."""
        return not self.missing(names) and not self.unexpected(names)


def fit(model: nn.Module, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Load a checkpoint's weights into a network, in place and strictly.

    Args:
        model: of the architecture that the weights belong to. Becomes float64 if all of them are.
        checkpoint: what was read.

    Returns:
        Notes on what was stripped and converted.

    Raises:
        ArchitectureMismatch: names or shapes differ; lists the first ten of each kind.
        CheckpointRefused: weights are integers, as quantised ones are, or names collide.
    """
    wanted, where = Wanted(model), str(checkpoint.path)
    state, renaming = under_names(wanted, checkpoint.tensors, where)
    _check(wanted, state, renaming, where)
    _refuse_integers(wanted, state, where)
    notes = _convert(model, wanted, state)
    try:
        # Some networks look here for the version of their names, which are the present ones.
        state._metadata = getattr(model.state_dict(), "_metadata", {})  # type: ignore[attr-defined]
        model.load_state_dict(state, strict=False)
    except Exception as error:
        # Layers may have ways of their own to load, as quantised ones do.
        raise ArchitectureMismatch(
            "the network does not take the weights",
            where=where,
            hint=f"{type(error).__name__}: {error}",
        ) from error
    return (*renaming.notes, *notes)


def under_names(
    wanted: Wanted, tensors: Mapping[str, Tensor], where: str
) -> tuple[OrderedDict[str, Tensor], Renaming]:
    """The tensors under the network's names, with weight_norm's pairs put together if need be.

    Args:
        wanted: names of the network.
        tensors: by their names in the file.
        where: the file, for messages.

    Raises:
        CheckpointRefused: stripping the prefixes of wrappers would make two names one.
    """
    renaming = strip_prefixes(list(tensors), wanted.fits, where)
    if not wanted.fits(renaming.stored.keys()):
        whole = folded(tensors)
        again = strip_prefixes(list(whole), wanted.fits, where)
        if wanted.fits(again.stored.keys()):
            note = "weight_norm's lengths and directions multiplied, as the network has weights"
            tensors, renaming = whole, Renaming(again.stored, (*again.notes, note))
    state = OrderedDict((name, tensors[stored]) for name, stored in renaming.stored.items())
    return state, renaming


def _check(wanted: Wanted, state: Mapping[str, Tensor], renaming: Renaming, where: str) -> None:
    missing, unexpected = wanted.missing(state), wanted.unexpected(state)
    misshaped = [
        f"{name} is {list(tensor.shape)}, the network's is {list(wanted.tensors[name].shape)}"
        for name, tensor in state.items()
        if name in wanted.tensors
        and not is_lazy(wanted.tensors[name])
        and tensor.shape != wanted.tensors[name].shape
    ]
    if not (missing or unexpected or misshaped):
        _refuse_torn(wanted, state, where)
        return
    unexpected = [renaming.stored[name] for name in unexpected]
    lines = [
        *_listed("missing from the checkpoint", missing),
        *_listed("unexpected in the checkpoint", unexpected),
        *_listed("of another shape", misshaped),
    ]
    raise ArchitectureMismatch(
        f"the weights do not fit the network: {len(missing)} missing, {len(unexpected)} "
        f"unexpected, {len(misshaped)} of another shape",
        where=where,
        hint="\n".join([*lines, "check --model, --model-arg and --key"]),
    )


def _refuse_torn(wanted: Wanted, state: Mapping[str, Tensor], where: str) -> None:
    torn = wanted.torn(state)
    if torn:
        raise ArchitectureMismatch(
            f"{', '.join(torn[:_SHOWN])}: one tensor with another in the network, but not in the "
            "checkpoint",
            where=where,
            hint="build the network without tied weights, by --model-arg",
        )


def _listed(head: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    rest = [f"  and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
    return [f"{head} ({len(items)}):", *(f"  {item}" for item in items[:_SHOWN]), *rest]


def _refuse_integers(wanted: Wanted, state: Mapping[str, Tensor], where: str) -> None:
    found = [
        f"{name} ({str(tensor.dtype).removeprefix('torch.')})"
        for name, tensor in state.items()
        if name in wanted.tensors
        and wanted.tensors[name].is_floating_point()
        and not tensor.is_floating_point()
    ]
    if found:
        raise CheckpointRefused(
            f"{len(found)} weights are integers, as quantised ones are: "
            f"{', '.join(found[:_SHOWN])}",
            where=where,
            hint="measure the checkpoint that was quantised",
        )


def _convert(model: nn.Module, wanted: Wanted, state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Notes on precision; nothing of it may be lost when the weights are copied."""
    weights = [t for name, t in state.items() if wanted.tensors[name].is_floating_point()]
    if weights and all(t.dtype == torch.float64 for t in weights):
        model.double()
        return ()
    short = [t for t in weights if t.dtype in (torch.float16, torch.bfloat16)]
    kinds = " and ".join(sorted({str(t.dtype).removeprefix("torch.") for t in short}))
    return (f"{len(short)} tensors stored as {kinds}, upcast",) if short else ()
