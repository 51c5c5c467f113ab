"""Files of results: rows as CSV, JSON and JSONL; the table as Markdown, LaTeX and HTML."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flatmeter.errors import UsageError
from flatmeter.results.atomic import write_whole
from flatmeter.results.markup import to_html, to_latex, to_markdown
from flatmeter.results.pivot import Grid, pivot
from flatmeter.results.record import COLUMNS, SCHEMA_VERSION, Row


def to_json(rows: Sequence[Row], run: Mapping[str, Any]) -> str:
    """One JSON document: schema version, run, rows."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "run": dict(run),
        "rows": [row.to_dict() for row in rows],
    }
    return json.dumps(document, indent=1, allow_nan=False, default=str) + "\n"


def to_jsonl(rows: Sequence[Row]) -> str:
    """One JSON object per line."""
    return "".join(json.dumps(row.to_dict(), allow_nan=False) + "\n" for row in rows)


def to_csv(rows: Sequence[Row]) -> str:
    """One line per row under a heading; missing values are empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _cell(v) for k, v in row.to_dict().items()} for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    """``true`` and ``false`` as JSON writes them; all else is the csv module's affair."""
    return str(value).lower() if isinstance(value, bool) else value


_ROWS: dict[str, Callable[[Sequence[Row], Mapping[str, Any]], str]] = {
    "csv": lambda rows, run: to_csv(rows),
    "json": to_json,
    "jsonl": lambda rows, run: to_jsonl(rows),
}
_GRIDS: dict[str, Callable[[Grid], str]] = {
    "md": to_markdown,
    "tex": to_latex,
    "html": to_html,
}
ENDINGS: tuple[str, ...] = (*_ROWS, *_GRIDS)


def check_ending(path: Path) -> str:
    """The format that the ending of ``path`` names.

    Raises:
        UsageError: none of those that can be written.
    """
    ending = path.suffix.lstrip(".").lower()
    if ending not in ENDINGS:
        raise UsageError(
            f"cannot tell the format from {path.name!r}",
            where="--export",
            hint=f"use one of these endings: {', '.join(ENDINGS)}",
        )
    return ending


def render(
    ending: str,
    rows: Sequence[Row],
    run: Mapping[str, Any],
    *,
    digits: int = 4,
    columns: Sequence[str] = (),
) -> str:
    """The results in one of the formats of :data:`ENDINGS`."""
    if ending in _ROWS:
        return _ROWS[ending](rows, run)
    return _GRIDS[ending](pivot(rows, digits=digits, columns=columns))


def export(
    path: Path,
    rows: Sequence[Row],
    run: Mapping[str, Any],
    *,
    digits: int = 4,
    columns: Sequence[str] = (),
) -> Path:
    """Write a file, whole or not at all, in the format that its ending names.

    Args:
        path: of the file; its folder must exist.
        rows: what to write.
        run: settings and versions, for JSON.
        digits: significant digits in tables.
        columns: of tables, as in :func:`flatmeter.results.pivot.pivot`.

    Raises:
        UsageError: an unknown ending.
        OutputError: the file cannot be written.
    """
    text = render(check_ending(path), rows, run, digits=digits, columns=columns)
    write_whole(path, text.encode())
    return path
