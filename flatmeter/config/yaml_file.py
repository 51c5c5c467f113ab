"""YAML read with the line on which every key stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flatmeter.errors import UsageError


@dataclass(frozen=True)
class YamlFile:
    """A mapping read from a file.

    Args:
        path: of the file.
        values: the mapping; empty for an empty file.
        lines: line of every key, nested ones by their dotted path.
    """

    path: Path
    values: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)

    def where(self, key: str) -> str:
        """``file:line`` of a dotted key, of its nearest parent where it has no line itself."""
        while key not in self.lines and "." in key:
            key = key.rpartition(".")[0]
        line = self.lines.get(key)
        return f"{self.path}:{line}" if line else str(self.path)


def read_yaml(path: Path) -> YamlFile:
    """Read a mapping, without running anything that the file names.

    Raises:
        UsageError: no such file, not YAML, not a mapping, or a key given twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except OSError as error:
        raise UsageError(f"cannot read it: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise UsageError("it is not a text file in UTF-8", where=str(path)) from error
    except yaml.YAMLError as error:
        raise _broken(path, error) from error
    if values is None:
        return YamlFile(path, {})
    if not isinstance(values, dict):
        raise UsageError(
            "it holds no settings", where=str(path), hint="write one `name: value` on each line"
        )
    lines: dict[str, int] = {}
    _collect(node, "", lines, path)
    return YamlFile(path, {str(key): value for key, value in values.items()}, lines)


def _broken(path: Path, error: yaml.YAMLError) -> UsageError:
    mark = getattr(error, "problem_mark", None)
    where = f"{path}:{mark.line + 1}" if mark else str(path)
    return UsageError(f"not YAML: {getattr(error, 'problem', None) or error}", where=where)


def _collect(node: yaml.Node | None, prefix: str, lines: dict[str, int], path: Path) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        line = key.start_mark.line + 1
        if name in lines:
            raise UsageError(
                f"{name!r} is given twice, first on line {lines[name]}", where=f"{path}:{line}"
            )
        lines[name] = line
        _collect(value, f"{name}.", lines, path)
