"""Another first layer for a library's network: more or fewer channels, or smaller images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from flatmeter.errors import UsageError

STEMS = ("imagenet", "cifar")
#: First convolutions of 7×7, and the max-pool that follows each.
_POOLED = (("conv1", "maxpool"), ("features.conv0", "features.pool0"))


def with_first_layer(
    factory: Callable[..., nn.Module], args: dict[str, Any], channels: str
) -> Callable[..., nn.Module]:
    """A factory that also changes the first layer.

    Args:
        factory: of a network of images.
        args: of the network; those that the factory does not know are taken out. ``stem`` is
            ``imagenet``, as the library has it, or ``cifar``: a 3×3 first convolution of stride 1
            without max-pool.
        channels: name of the argument that gives the channels of the images, or empty where the
            factory has one of its own.

    Raises:
        UsageError: a value that cannot be meant.
    """
    stem, count = args.pop("stem", "imagenet"), args.pop(channels, None)
    if stem not in STEMS:
        raise UsageError(
            f"stem cannot be {stem!r}", where="--model-arg", hint=f"it can be {', '.join(STEMS)}"
        )
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise UsageError(f"{channels} cannot be {count!r}", where="--model-arg")
    if stem == "imagenet" and count is None:
        return factory

    @functools.wraps(factory)
    def build(**given: Any) -> nn.Module:
        model = factory(**given)
        if stem == "cifar":
            use_small_stem(model)
        if count is not None:
            set_in_channels(model, count)
        return model

    return build


def set_in_channels(model: nn.Module, count: int) -> None:
    """Replace the first convolution by one for images of ``count`` channels.

    Raises:
        UsageError: there is none.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            model.set_submodule(name, _like(module, in_channels=count))
            return
    raise UsageError("the network has no convolution", where="--model-arg in_channels")


def has_pooled_stem(model: nn.Module) -> bool:
    """Whether the network begins with a 7×7 convolution and a max-pool."""
    return _pooled_stem(model) is not None


def use_small_stem(model: nn.Module) -> None:
    """Put a 3×3 convolution of stride 1 in the place of the first one and its max-pool.

    Raises:
        UsageError: the network begins in another way.
    """
    found = _pooled_stem(model)
    if found is None:
        raise UsageError(
            "the network has no stem of a 7×7 convolution and a max-pool",
            where="--model-arg stem=cifar",
            hint="leave it out",
        )
    conv, pool = found
    first = model.get_submodule(conv)
    assert isinstance(first, nn.Conv2d)
    model.set_submodule(conv, _like(first, kernel_size=3, stride=1, padding=1))
    model.set_submodule(pool, nn.Identity())


def _pooled_stem(model: nn.Module) -> tuple[str, str] | None:
    modules = dict(model.named_modules())
    for conv, pool in _POOLED:
        first = modules.get(conv)
        if isinstance(modules.get(pool), nn.MaxPool2d) and isinstance(first, nn.Conv2d):
            return (conv, pool) if first.kernel_size == (7, 7) else None
    return None


def _like(conv: nn.Conv2d, **changes: Any) -> nn.Conv2d:
    settings: dict[str, Any] = {
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "bias": conv.bias is not None,
        "padding_mode": conv.padding_mode,
        "device": conv.weight.device,
        "dtype": conv.weight.dtype,
    }
    return nn.Conv2d(**(settings | changes))
