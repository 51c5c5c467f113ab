"""An equivalent checkpoint: other weights, moved along the symmetries, that compute the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from flatmeter.checkpoint.fit import Wanted
from flatmeter.checkpoint.prefixes import strip_prefixes
from flatmeter.checkpoint.rewrite import SAFETENSORS, rewrite, write_weights
from flatmeter.config.anchor import anchored
from flatmeter.errors import FlatmeterError, NotApplicable
from flatmeter.results.atomic import write_whole
from flatmeter.risk.attention import math_attention
from flatmeter.risk.logits import logits_of
from flatmeter.risk.replaced import replaced
from flatmeter.scalings import Symmetries, network_copy
from flatmeter.subject import Network
from flatmeter.symmetry.elements import Balanced, balanced_factors, random_factors
from flatmeter.symmetry.statistics import moved_statistics
from flatmeter.words import sidecar

EXACT = 1e-8
"""Relative change of float64 outputs that passes where no ε makes symmetries approximate."""

UP_TO_EPS = 1e-3
"""The same where one does."""

ROUNDINGS = 1000
"""Changes that passes for rounding to the dtype of the file, in units of its ε …"""

LARGEST_ROUNDING = 0.05
"""… and never more than this."""

_HEADER = "# Written by flatmeter symmetries: what the checkpoint beside it belongs to.\n"


@dataclass(frozen=True)
class Move:
    """Where on its orbit a network is to go.

    Args:
        seed: of a random element; ``None`` for the smallest sum of squared weights.
        size: a random element moves every independent scale by at most this power of two.
        channels: every channel by itself instead of whole tensors.
        tolerance: relative change of the outputs that is accepted; ``None`` for the usual.
    """

    seed: int | None
    size: int = 1
    channels: bool = False
    tolerance: float | None = None


@dataclass(frozen=True)
class Moved:
    """An equivalent checkpoint that was written.

    Args:
        path: of the file.
        move: that was asked for.
        change: relative change of the outputs in float64.
        stored_change: the same after rounding to the dtypes of the file.
        eval_change: the same with stored statistics, which moved with the weights; ``None`` where
            none did.
        dtype: of most weights in the file.
        balanced: the certificate, where the smallest sum was asked for.
        notes: what a reader should know.
    """

    path: Path
    move: Move
    change: float
    stored_change: float
    eval_change: float | None
    dtype: str
    balanced: Balanced | None
    notes: tuple[str, ...]


def write_equivalent(
    path: Path, network: Network, found: Symmetries, move: Move, *, params: str | None = None
) -> Moved:
    """Move a checkpoint along its symmetries, verify that its outputs stay, and write it.

    Args:
        path: of the new file.
        network: that was read.
        found: its symmetries.
        move: where to.
        params: pattern of the names of the parameters that are not held fixed.

    Raises:
        NotApplicable: there is nothing to move along.
        FlatmeterError: the outputs would change, or the file cannot be written.
    """
    if not (found.channel_dim if move.channels else found.dim):
        raise NotApplicable(
            "the network has no scaling symmetry, so there is no equivalent to move it to",
            where=found.name,
        )
    copy = network_copy(network.model, bn=found.bn or "eval", params=params)
    named = dict(copy.named_parameters())
    flat = found.space.flatten({n: named[n].detach() for n in found.space.names})
    balanced = None
    if move.seed is None:
        balanced = balanced_factors(found.group, found.space, flat, channels=move.channels)
        factors = balanced.factors
    else:
        factors = random_factors(
            found.group, found.space, move.seed, size=move.size, channels=move.channels
        )
    state = _State(network, found)
    exact = found.space.unflatten(flat * factors)
    stored = state.rounded(found.space.unflatten(factors))
    inputs = found.inputs.to("cpu")
    change, stored_change = _change(copy, exact, inputs), _change(copy, stored, inputs)
    eval_change = None
    if found.bn == "batch":
        statistics = state.statistics(moved_statistics(copy, exact, inputs))
        if statistics:
            frozen = network_copy(network.model, bn="eval", params=params)
            stored |= statistics
            eval_change = _change(frozen, stored, inputs)
    _check(found, move, balanced, [change, stored_change, eval_change or 0.0], state.dtype)
    _write_words(path, network)
    notes = state.write(path, stored)
    dtype = str(state.dtype).removeprefix("torch.")
    return Moved(path, move, change, stored_change, eval_change, dtype, balanced, notes)


class _State:
    """The weights of a checkpoint by the names of its network.

    Args:
        network: that was read.
        found: its symmetries.
    """

    def __init__(self, network: Network, found: Symmetries) -> None:
        self.checkpoint, self.model = network.checkpoint, network.model
        wanted = Wanted(self.model)
        tensors = self.checkpoint.tensors
        renaming = strip_prefixes(list(tensors), wanted.fits, str(self.checkpoint.path))
        # Otherwise the file's tensors are not the network's, but what these are made of.
        self.same = wanted.fits(renaming.stored.keys())
        self.names = dict(renaming.stored) if self.same else {n: n for n in wanted.tensors}
        self.tensors: Mapping[str, Tensor] = (
            tensors if self.same else {n: t.detach() for n, t in wanted.tensors.items()}
        )
        self.first = {n: n for n in found.space.names}
        for first, others in (found.space.tied or {}).items():
            self.first |= dict.fromkeys(others, first)

    @property
    def dtype(self) -> torch.dtype:
        """Of the coarsest weights that may move."""
        own = [self.tensors[s].dtype for n, s in self.names.items() if n in self.first]
        return max(own, key=lambda dtype: torch.finfo(dtype).eps)

    def rounded(self, factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The moved parameters as the file holds them, by the network's names of them.

        Args:
            factors: by name, of the parameters' shapes.
        """
        moved = {}
        for name, first in self.first.items():
            if name in self.names and first not in moved:
                tensor = self.tensors[self.names[name]]
                moved[first] = (tensor.double() * factors[first]).to(tensor.dtype)
        return moved

    def statistics(self, changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The moved running statistics as the file holds them.

        Args:
            changes: factor and shift by batch-norm, as of :func:`moved_statistics`.
        """
        moved = {}
        for norm, (factor, shift) in changes.items():
            mean, variance = f"{norm}.running_mean", f"{norm}.running_var"
            if mean in self.names and variance in self.names:
                old = self.tensors[self.names[mean]]
                moved[mean] = (old.double() * factor + shift).to(old.dtype)
                old = self.tensors[self.names[variance]]
                moved[variance] = (old.double() * factor.square()).to(old.dtype)
        return moved

    def write(self, path: Path, moved: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Write the file with the moved tensors; one that stands under several names stays one."""
        named = {
            n: moved[self.first.get(n, n)] for n in self.names if self.first.get(n, n) in moved
        }
        if self.same:
            new = {self.names[name]: tensor for name, tensor in named.items()}
            return rewrite(self.checkpoint, new, frozenset(self.names.values()), path)
        note = "written by the names of the network, since the file's are those of other tensors"
        return (note, *write_weights(path, {**self.tensors, **named}, {}))


@torch.no_grad()
def _change(copy: nn.Module, values: Mapping[str, Tensor], inputs: Tensor) -> float:
    """Relative change of the outputs under other values; infinite where one is not finite."""
    inputs = inputs.to(torch.float64) if inputs.is_floating_point() else inputs
    with math_attention():
        before = logits_of(copy(inputs))
        with replaced(copy, values):
            after = logits_of(copy(inputs))
    change = float((after - before).norm() / before.norm())
    return change if change == change else float("inf")


def _check(
    found: Symmetries,
    move: Move,
    balanced: Balanced | None,
    changes: list[float],
    dtype: torch.dtype,
) -> None:
    """Refuse what is not the same network, or not the minimum that was asked for."""
    if balanced is not None and not balanced.certified:
        raise FlatmeterError(
            "the smallest sum of squares was not reached: it still changes by "
            f"{balanced.slope:.1g} of itself along a rescaling",
            where=found.name,
            hint="nothing is written; --granularity tensor may do",
        )
    inexact = bool(found.blocks) or not all(g.exact for g in found.generators)
    tolerance = move.tolerance or (UP_TO_EPS if inexact else EXACT)
    rounding = min(ROUNDINGS * torch.finfo(dtype).eps, LARGEST_ROUNDING)
    change, *later = changes
    if change <= tolerance and all(c <= tolerance + rounding for c in later):
        return
    worst = max(changes)
    if worst == float("inf"):
        what, hint = "the outputs are not finite or all zero", "a smaller --size may do"
    else:
        what = f"the outputs would change by {worst:.1g}, relatively; {tolerance:.1g} is accepted"
        hint = "a smaller --size changes less" + (
            ", since symmetries hold only as far as the ε of normalisations is small; or accept "
            "it: --tolerance"
            if inexact
            else "; with --tolerance more is accepted"
        )
    raise FlatmeterError(f"{what}: nothing is written", where=found.name, hint=hint)


def _write_words(path: Path, network: Network) -> None:
    """Beside the new file, what is said of it outside of it."""
    own = network.checkpoint.metadata.get("model") is not None
    if not sidecar(network.checkpoint.path) and not (own and path.suffix == SAFETENSORS):
        return
    said = {k: v for k, v in network.words.items() if v and not isinstance(v, nn.Module)}
    words = {k: anchored(k, v, Path.cwd()) for k, v in said.items()}
    text = _HEADER + yaml.safe_dump(words, sort_keys=False)
    write_whole(path.with_name(path.name + ".yaml"), text.encode())
