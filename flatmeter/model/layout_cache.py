"""The layouts of an installed library, built once and kept in the user's cache folder."""

from __future__ import annotations

import gzip
import importlib.metadata
import importlib.util
import json
import os
import re
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flatmeter._version import __version__
from flatmeter.model.layout import Layout
from flatmeter.renamed import renamed_onto

LIBRARIES = ("torchvision", "timm")
_SLOW = ("timm",)
#: Of the file; a change of what it holds needs a new one.
_FORMAT = 1

_known: dict[str, tuple[Layout, ...]] = {}
"""What this process has read or built."""


def layouts(library: str, tell: Callable[[str], None] = warnings.warn) -> tuple[Layout, ...]:
    """Every layout of ``torchvision`` or ``timm``; none where it is not installed.

    The first call for a version of a library builds all of its networks, without memory for their
    weights: seconds for torchvision, minutes for timm. A file that cannot be read or written is as
    good as none.

    Args:
        library: its name.
        tell: given a sentence before minutes are spent.
    """
    if library not in _known:
        _known[library] = _load(library, tell)
    return _known[library]


def _load(library: str, tell: Callable[[str], None]) -> tuple[Layout, ...]:
    if importlib.util.find_spec(library) is None:
        return ()
    file = cache_file(library)
    kept = None if file is None else _read(file)
    if kept is None:
        if library in _SLOW:
            tell(f"reading the shapes of all networks of {library}, once: this takes minutes")
        kept = _built(library)
        if file is not None:
            _write(file, kept)
    return kept


def cache_file(library: str) -> Path | None:
    """Where the layouts of the installed version are kept; ``None`` without a folder for that."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        version = importlib.metadata.version(library)
    except (RuntimeError, importlib.metadata.PackageNotFoundError):
        return None
    name = re.sub(r"[^\w.+-]", "_", f"{library}-{version}-flatmeter-{__version__}-{_FORMAT}")
    return Path(base) / "flatmeter" / "layouts" / f"{name}.json.gz"


def _built(library: str) -> tuple[Layout, ...]:
    from flatmeter.model import library_layouts

    every = {
        "torchvision": library_layouts.torchvision_layouts,
        "timm": library_layouts.timm_layouts,
    }
    return tuple(every[library]())


def _read(file: Path) -> tuple[Layout, ...] | None:
    try:
        # gzip's checksum finds what is damaged.
        found = json.loads(gzip.decompress(file.read_bytes()))
        return tuple(map(_layout, found)) or None
    except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, AttributeError):
        return None


def _layout(fields: dict[str, Any]) -> Layout:
    shapes = {name: tuple(shape) for name, shape in fields["shapes"].items()}
    silent = {name: tuple(values) for name, values in fields["silent"].items()}
    return Layout(**{**fields, "shapes": shapes, "silent": silent})


def _write(file: Path, found: tuple[Layout, ...]) -> None:
    content = gzip.compress(json.dumps([asdict(layout) for layout in found]).encode(), 6)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with renamed_onto(file) as temporary:
            temporary.write_bytes(content)
