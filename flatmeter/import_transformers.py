"""The one place that imports transformers."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from types import ModuleType

from flatmeter.errors import UsageError
from flatmeter.import_torchvision import import_torchvision


def import_transformers() -> ModuleType:
    """transformers, also where torchvision's compiled operators do not load.

    Raises:
        UsageError: it is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise UsageError(
            "networks and tokenizers of Hugging Face folders need transformers, which is not "
            "installed",
            hint="pip install 'flatmeter[hf]'",
        )
    # Where torchvision's own import fails, transformers' fails on it too.
    import_torchvision()
    module = importlib.import_module("transformers")
    # Its advice on training and padding is said in our own words where it matters.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    return module
