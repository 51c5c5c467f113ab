"""Relative paths in a settings file start at that file's folder, not where the command runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

#: Of the windows of a text, before its file.
_LENGTH = re.compile(r"\d+@")


def anchored(name: str, value: Any, folder: Path) -> Any:
    """The value with its relative path, if it holds one, starting at ``folder``.

    Args:
        name: of the setting.
        value: of the setting.
        folder: of the file that it stands in.
    """
    if name == "measures" and isinstance(value, str):
        value = [item.strip() for item in value.split(",")]
    if name in ("measures", "export") and isinstance(value, list):
        return [anchored(name.removesuffix("s"), item, folder) for item in value]
    if not isinstance(value, str):
        return value
    if name in ("out", "export"):
        return str(folder / value)
    if name in ("model", "data", "loss", "measure"):
        return _spec(value, folder)
    return value


def _spec(spec: str, folder: Path) -> str:
    """A source or factory with an absolute path, in each form that holds a path."""
    kind, _, rest = spec.partition(":")
    if kind in ("hf", "text") and rest and not _LENGTH.match(rest):
        return f"{kind}:{folder / Path(rest).expanduser()}"
    source, at, directory = spec.partition("@")
    if at:
        return f"{source}@{folder / Path(directory).expanduser()}"
    path, colon, attribute = spec.rpartition(":")
    if path.endswith(".py"):
        return f"{folder / Path(path).expanduser()}{colon}{attribute}"
    if spec.endswith((".pt", ".npz")):
        return str(folder / Path(spec).expanduser())
    return spec
