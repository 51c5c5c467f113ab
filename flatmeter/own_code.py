"""Fingerprint of a person's own code: edited code is another network, or another loss."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from flatmeter.importing import is_import_spec, module_of

_LIBRARIES = (
    Path(__file__).resolve().parent,
    *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")),
)

_INSTALLED = frozenset({"site-packages", "dist-packages"})


def source_hash(spec: str) -> str | None:
    """Hash of the file behind an import path, and of the person's own modules that it imports.

    Args:
        spec: ``pkg.mod:name`` or ``file.py:name``, already imported.

    Returns:
        ``None`` for anything else, and where there is no source to read. What libraries contain
        does not count beyond the file itself: they have versions.
    """
    if not is_import_spec(spec):
        return None
    module = module_of(spec)
    source = None if module is None else _source(module)
    if module is None or source is None:
        return None
    found = {module.__name__: source}
    waiting = [module]
    while waiting:
        for other in _imports(waiting.pop(), found):
            text = None if _of_library(other) else _source(other)
            if text is not None:
                found[other.__name__] = text
                waiting.append(other)
    texts = [source, *(found[name] for name in sorted(found) if name != module.__name__)]
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


def sources_hash(names: Iterable[str]) -> str | None:
    """Hash of a person's own code behind names that were unpickled.

    Args:
        names: of classes and functions, with their modules before a dot.

    Returns:
        ``None`` where all of them are a library's.
    """
    found = {}
    for name in names:
        module, _, attribute = name.rpartition(".")
        loaded = sys.modules.get(module)
        if loaded is not None and not _of_library(loaded):
            found[module] = source_hash(f"{module}:{attribute}")
    own = [str(found[module]) for module in sorted(found) if found[module] is not None]
    return hashlib.sha256("".join(own).encode()).hexdigest()[:16] if own else None


def _source(module: ModuleType) -> str | None:
    path = getattr(module, "__file__", None)
    if path is None or Path(path).suffix != ".py":
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _of_library(module: ModuleType) -> bool:
    path = Path(str(getattr(module, "__file__", None))).resolve()
    # Also those that another environment or the user's own folder lends to this one.
    if not _INSTALLED.isdisjoint(path.parts):
        return True
    return any(path.is_relative_to(library) for library in _LIBRARIES)


def _imports(module: ModuleType, seen: dict[str, str]) -> Iterator[ModuleType]:
    """Loaded modules that the source of a module names in an import, anywhere in it."""
    try:
        tree = ast.parse(_source(module) or "")
    except SyntaxError:
        return
    for name in _imported_names(tree, module.__package__ or ""):
        other = sys.modules.get(name)
        if other is not None and other.__name__ not in seen:
            yield other


def _imported_names(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                if not package:
                    continue
                base = importlib.util.resolve_name("." * node.level + base, package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
