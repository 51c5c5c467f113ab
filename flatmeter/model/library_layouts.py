"""Layouts of all classification networks of a library, built without memory for their weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from flatmeter.errors import Stopped
from flatmeter.import_torchvision import import_torchvision
from flatmeter.model.layout import Layout, compared
from flatmeter.model.registry import timm_module, torchvision_names
from flatmeter.model.stem import has_pooled_stem, set_in_channels, use_small_stem

#: Sizes that no network has elsewhere, by which the dimensions that they decide are found.
_CLASSES, _CHANNELS = 1_000_003, 999_983
_LARGEST = 900_000
_SMALL_SIDE = 32
#: Networks with heads beside the main one, and a change of the inputs that comes with weights that
#: were fetched, and that no tensor shows.
_INCEPTIONS = ("googlenet", "inception_v3")
_ALLOCATING = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
#: Initialisations: most of the time it would take, and shapes do not depend on them.
_FILLING = frozenset(
    {
        "normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_",
        "xavier_normal_", "xavier_uniform_", "constant_", "ones_", "zeros_", "zero_", "fill_",
        "copy_", "erfinv_", "mul_", "add_", "sub_", "div_", "clamp_",
    }
)  # fmt: skip
_SILENT = {"transform_input": (False, True)}


def torchvision_layouts() -> Iterator[Layout]:
    """Every classification network of torchvision, with the variants that shapes tell apart."""
    import_torchvision()
    from torchvision import models

    for name in torchvision_names():
        side = _side(models.get_model_weights(name))
        for args in ({}, {"aux_logits": False}) if name in _INCEPTIONS else ({},):
            more = {"init_weights": False} if name in _INCEPTIONS else {}
            with without_memory():
                model = models.get_model(name, weights=None, num_classes=_CLASSES, **args, **more)
                set_in_channels(model, _CHANNELS)
            facts: dict[str, Any] = {
                "defaults": {"num_classes": 1000, "in_channels": 3},
                "silent": _SILENT if name in _INCEPTIONS else {},
            }
            patch = getattr(model, "patch_size", 0)
            if patch:
                facts["patch"] = patch
                facts["defaults"]["image_size"] = model.image_size
            yield from _with_stems(model, f"torchvision:{name}", args, side, facts)


def timm_layouts() -> Iterator[Layout]:
    """Every classification network of timm; those that cannot be built so are left out."""
    timm = timm_module()
    for name in timm_names():
        model = _timm_model(timm, name)
        if model is not None:
            side = max(model.default_cfg.get("input_size", (3, 224, 224))[1:])
            facts = {"defaults": {"in_chans": 3}}
            yield from _with_stems(model, f"timm:{name}", {}, side, facts)


def timm_names() -> list[str]:
    """Networks of timm."""
    return list(timm_module().list_models())


def layout_of(model: nn.Module, name: str, args: Mapping[str, Any], **facts: Any) -> Layout:
    """The layout of a network.

    Args:
        model: on any device.
        name: for ``--model``.
        args: that it was built with.
        facts: what else its layout has.
    """
    state = {k: tuple(v.shape) for k, v in model.state_dict().items() if torch.is_tensor(v)}
    channels = "in_channels" if "in_channels" in facts.get("defaults", {}) else "in_chans"
    argument = {_CLASSES: "num_classes", _CHANNELS: channels}
    kept = compared(state)
    shapes = {k: tuple(argument.get(n, n) for n in v) for k, v in state.items() if k in kept}
    embedding = shapes.get("encoder.pos_embedding")
    if facts.get("patch") and embedding:
        shapes["encoder.pos_embedding"] = (embedding[0], "image_size", embedding[2])
    return Layout(name, dict(args), shapes, **facts)


def _with_stems(
    model: nn.Module, name: str, args: Mapping[str, Any], side: int, facts: Mapping[str, Any]
) -> Iterator[Layout]:
    yield layout_of(model, name, args, side=side, **facts)
    if has_pooled_stem(model):
        with without_memory():
            use_small_stem(model)
        yield layout_of(model, name, {**args, "stem": "cifar"}, side=_SMALL_SIDE, **facts)


def _timm_model(timm: Any, name: str) -> Any:
    for channels in (_CHANNELS, 3):
        try:
            with without_memory():
                model = timm.create_model(
                    name, pretrained=False, num_classes=_CLASSES, in_chans=channels
                )
        except Stopped:
            raise  # or the layouts that are kept would lack this one
        except Exception:
            continue
        dims = {n for t in model.state_dict().values() for n in t.shape}
        if all(n < _LARGEST or n in (_CLASSES, _CHANNELS) for n in dims):
            return model
    return None


def _side(weights: Any) -> int:
    """Height and width of the images that a library's own weights were trained for."""
    return next(int(w.transforms.keywords["crop_size"]) for w in weights)


class _OnlyShapes(TorchFunctionMode):
    """Weights that are made inside have shapes only; what is computed from a range has values."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        first = args[0] if args else kwargs.get("tensor")
        if getattr(func, "__name__", "") in _FILLING and getattr(first, "is_meta", False):
            return first
        if func in _ALLOCATING and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@contextmanager
def without_memory() -> Iterator[None]:
    """Networks that are built inside have shapes only, and no values."""
    # Warnings of libraries are of no use here.
    with _OnlyShapes(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
