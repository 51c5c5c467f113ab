"""``flatmeter.symmetries``: the scaling symmetries of a network, with or without its data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from flatmeter.model.example_inputs import example_inputs
from flatmeter.randomness import derived_generator
from flatmeter.risk.attention import math_attention
from flatmeter.risk.batch_norm import BNMode, private_copy, settled_mode
from flatmeter.risk.space import ParameterSpace
from flatmeter.subject import Loader, Subject
from flatmeter.symmetry.blocks import Block, scale_invariant_blocks
from flatmeter.symmetry.channel_dimension import channel_dimension
from flatmeter.symmetry.find import find_group
from flatmeter.symmetry.group import Generator, SymmetryGroup
from flatmeter.symmetry.kinds import Kind
from flatmeter.workbench import with_fixed

EXAMPLES = 4
"""Inputs that symmetries are evaluated on."""


@dataclass(frozen=True, eq=False)
class Symmetries:
    """The scaling symmetries of a network.

    Args:
        name: path of the checkpoint, or a name for a network.
        group: the symmetries themselves.
        space: names and shapes of the tensors that may be scaled.
        bn: mode of its batch-norms, ``None`` where there are none.
        inputs: that they were evaluated on, ``[n, …]``.
        source: of these inputs: the name of the data, or ``random``.
    """

    name: str
    group: SymmetryGroup
    space: ParameterSpace
    bn: BNMode | None
    inputs: Tensor
    source: str

    @property
    def dim(self) -> int:
        """Number of independent symmetries that scale whole tensors."""
        return self.group.dim

    @property
    def generators(self) -> tuple[Generator, ...]:
        """A basis of them; each has ``words``, ``moves``, ``kind`` and ``exact``."""
        return self.group.generators

    @cached_property
    def kinds(self) -> Mapping[Kind, int]:
        """How many there are of each kind."""
        return Counter(generator.kind for generator in self.generators)

    @property
    def channel_dim(self) -> int:
        """Number of independent scales of single channels."""
        return channel_dimension(self.group.channels)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The smallest sets of parameters whose common scale does not matter."""
        return scale_invariant_blocks(self.group, self.space)

    def __str__(self) -> str:
        from flatmeter.results.symmetries_text import to_text

        return to_text(self)


def symmetries(
    subject: Subject | nn.Module | str | Path,
    *,
    inputs: Tensor | None = None,
    input_shape: Sequence[int] | None = None,
    bn: BNMode = "eval",
    params: str | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> Symmetries:
    """The scaling symmetries of a network: read off its graph, then verified by evaluation.

    >>> found = flatmeter.symmetries(net, input_shape=(3, 32, 32))
    >>> found.dim
    12
    >>> print(found)

    Args:
        subject: a network in memory (which is not changed), what :func:`flatmeter.load` gave, or
            a checkpoint's path, where somebody says which network it belongs to.
        inputs: examples ``[n, …]``; left out, those of the subject's data, else random ones.
        input_shape: of one random input; left out, one that the network takes.
        bn: batch-norm by stored statistics (``eval``) or the batch's own (``batch``).
        params: pattern of the names of the parameters that are not held fixed.
        device: where it is evaluated.
        seed: of random inputs.

    Raises:
        NotApplicable: the network's graph cannot be had.
        FlatmeterError: the checkpoint cannot be read, or no input fits the network.
    """
    source = "given"
    if isinstance(subject, nn.Module):
        name, model = type(subject).__name__, subject
    elif isinstance(subject, Subject):
        name, model = subject.name, subject.model
        if inputs is None and input_shape is None:
            inputs, source = subject.data.inputs[:EXAMPLES], subject.data.name
    else:
        name, model = str(subject), Loader({}).network(subject).model
    return examine(
        model,
        name=name,
        inputs=inputs,
        source=source,
        input_shape=input_shape,
        bn=bn,
        params=params,
        device=device,
        seed=seed,
    )


def examine(
    model: nn.Module,
    *,
    name: str,
    inputs: Tensor | None = None,
    source: str = "given",
    input_shape: Sequence[int] | None = None,
    bn: BNMode = "eval",
    params: str | None = None,
    device: str = "cpu",
    seed: int = 0,
    fresh: bool = False,
) -> Symmetries:
    """The symmetries of a network with a name.

    Args:
        model: left as it is.
        name: for people.
        inputs: examples ``[n, …]`` of any dtype, on any device; ``None`` for random ones.
        source: of the inputs.
        input_shape: of one random input; ``None`` for one that the network takes.
        bn: mode of its batch-norms.
        params: pattern of the names of the parameters that are not held fixed.
        device: where it is evaluated.
        seed: of random inputs.
        fresh: the weights were never trained. Those that begin as all zeros or ones would hide
            what scaling them does, and are given other values.

    Raises:
        NotApplicable: the network's graph cannot be had.
        UsageError: no random input fits the network, or no parameter the pattern.
    """
    copy = network_copy(model, bn=bn, params=params, device=device)
    if fresh:
        _vary(copy, seed)
    if inputs is None:
        inputs = example_inputs(copy, input_shape, count=EXAMPLES, seed=seed)
        source = "random"
    space = ParameterSpace.from_module(copy)
    place = next((p.device for p in copy.parameters()), torch.device("cpu"))
    inputs = inputs.to(place, torch.float64 if inputs.is_floating_point() else None)
    with math_attention():
        group = find_group(copy, inputs, space.names)
    # A copy that uses the batch's own statistics keeps none that could be used instead.
    return Symmetries(name, group, space, settled_mode(copy, "eval"), inputs, source)


@torch.no_grad()
def _vary(module: nn.Module, seed: int) -> None:
    for name, parameter in module.named_parameters():
        if parameter.numel() and bool((parameter == parameter.flatten()[0]).all()):
            generator = derived_generator(seed, f"values of {name}")
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_((0.1 * noise).to(parameter))


def network_copy(
    model: nn.Module, *, bn: BNMode, params: str | None = None, device: str = "cpu"
) -> nn.Module:
    """A private copy of a network in float64 and in the mode in which it is looked at.

    Args:
        model: left as it is.
        bn: mode of its batch-norms.
        params: pattern of the names of the parameters that are not held fixed.
        device: of the copy; Apple's GPUs have no float64.
    """
    model = with_fixed(model, params) if params else model
    place = torch.device("cpu" if device.startswith("mps") else device)
    return private_copy(model, bn=bn, device=place, dtype=torch.float64)
