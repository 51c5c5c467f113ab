"""The one place that imports torchvision."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS = ("nms", "qnms")

#: A library takes its registrations with it when it is collected.
_kept: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """Import torchvision, also where its compiled operators do not load.

    A torchvision built for CUDA cannot load its operators beside a CPU build of torch, and its
    import then fails on the operators' names. Models, data sets and transforms need only the names,
    so these are registered first.
    """
    if "torchvision" not in sys.modules:
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
        _forget()
        _register()
    return importlib.import_module("torchvision")


def _register() -> None:
    if not _kept:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in _OPERATORS:
            library.define(name + _SCHEMA)
        _kept.append(library)


def _forget() -> None:
    """Remove what a failed import left behind, so that the next one begins anew."""
    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]
