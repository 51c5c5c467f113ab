"""Inputs that a network takes, where there are no data: random ones of a fitting shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from flatmeter.errors import UsageError
from flatmeter.randomness import derived_generator

SIDES = (224, 32, 28, 64, 96, 128, 256, 299, 384, 8)
"""Sides of images that are tried in turn; a volume's are the smaller ones."""

TOKENS = 16
"""Length of sequences."""

LARGEST_VOLUME = 64


def example_inputs(
    model: nn.Module, shape: Sequence[int] | None = None, *, count: int = 4, seed: int = 0
) -> Tensor:
    """Random inputs: normally distributed numbers, or tokens where the network embeds them.

    Args:
        model: in evaluation mode; left as it is.
        shape: of one input; by default the first that the network takes among those that its
            first layer allows.
        count: of inputs.
        seed: of their values.

    Returns:
        ``[count, *shape]``, float32 or int64, on the CPU.

    Raises:
        UsageError: no shape is given and none is found, or the network fails on the given one.
    """
    first = _first_layer(model)
    tokens = first.num_embeddings if isinstance(first, nn.Embedding) else None
    failures = []
    for tried in [tuple(shape)] if shape is not None else _shapes(model, first):
        generator = derived_generator(seed, "example inputs")
        if tokens is None:
            inputs = torch.randn((count, *tried), generator=generator)
        else:
            inputs = torch.randint(tokens, (count, *tried), generator=generator)
        failure = _failure(model, inputs)
        if failure is None:
            return inputs
        failures.append(f"on inputs of shape {list(tried)} it fails: {failure}")
    raise UsageError(
        "; ".join(["which inputs the network takes is not known", *failures[-1:]])
        if shape is None
        else f"not what the network takes; {failures[0]}",
        where=None if shape is None else "--input-shape",
        hint="give the shape of one input, such as --input-shape 3,32,32, or give --data",
    )


def _first_layer(model: nn.Module) -> nn.Module | None:
    """The first layer with weights, in the order in which the network was put together."""
    kinds = (nn.Linear, nn.Embedding, nn.RNNBase, nn.modules.conv._ConvNd)
    return next((layer for layer in model.modules() if isinstance(layer, kinds)), None)


def _shapes(model: nn.Module, first: nn.Module | None) -> Iterator[tuple[int, ...]]:
    if isinstance(first, nn.modules.conv._ConvNd):
        dims = len(first.kernel_size)
        for side in (*_said_by(model, "image_size"), *SIDES):
            if dims < 3 or side <= LARGEST_VOLUME:
                yield (first.in_channels, *[side] * dims)
    elif isinstance(first, nn.Embedding):
        yield (min([TOKENS, *_said_by(model, "max_position_embeddings")]),)
    elif isinstance(first, nn.RNNBase):
        yield (TOKENS, first.input_size)
    elif isinstance(first, nn.Linear):
        yield from ((first.in_features,), (TOKENS, first.in_features))


def _said_by(model: nn.Module, name: str) -> list[int]:
    """What the network or its configuration says of the size of its inputs."""
    said = (getattr(owner, name, None) for owner in (model, getattr(model, "config", None)))
    return [size for size in said if isinstance(size, int)]


def _failure(model: nn.Module, inputs: Tensor) -> str | None:
    """The first line of the network's error on some inputs, ``None`` where it takes them."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    x = inputs.to(dtype) if inputs.is_floating_point() else inputs
    try:
        with torch.no_grad():
            model(x)
    except Exception as error:  # whatever the network's own code raises
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return None
