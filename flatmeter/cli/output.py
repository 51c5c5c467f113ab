"""What ``flatmeter measure`` prints and exports."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flatmeter.cli.streams import ascii_only, page_width, write_out
from flatmeter.config.schema import Settings
from flatmeter.errors import UsageError
from flatmeter.plan import Plan
from flatmeter.results.exporters import check_ending, export, render, to_jsonl
from flatmeter.results.pivot import check_columns, pivot, sort_rows
from flatmeter.results.plain_text import ascii_grid
from flatmeter.results.record import NETWORK, Row
from flatmeter.results.table import render_parts, render_text

_ENDINGS = {"latex": "tex"}


class Output:
    """Gathers rows and writes them in the format asked for.

    Args:
        settings: format, exports, columns and so on.
        notes: show what measures had to say about their values.
    """

    def __init__(self, settings: Settings, *, notes: bool) -> None:
        self.settings, self.notes = settings, notes
        self.run: dict[str, Any] = {}
        self.rows: list[Row] = []

    def check(self, plan: Plan) -> None:
        """Refuse what could not be shown at the end.

        Raises:
            UsageError: an unknown column or ending, or a folder that cannot be written to.
        """
        quantities = [(m.name, q) for m in plan.measures for q in m.quantities]
        check_columns(self.settings.columns, quantities, "--columns")
        if self.settings.sort:
            check_columns([self.settings.sort.lstrip("-")], quantities, "--sort")
        for name in self.settings.export:
            path = Path(name)
            check_ending(path)
            if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
                raise UsageError(
                    f"cannot write into the folder {path.parent}", where=f"--export {name}"
                )

    def add(self, rows: Sequence[Row]) -> None:
        """The rows of one measure; lines of JSON are printed at once."""
        self.rows += rows
        if self.settings.format == "jsonl":
            write_out(to_jsonl(self._shown(rows)))

    def finish(self) -> None:
        """Write the exports and print the rest."""
        s = self.settings
        rows = self._shown(self.rows)
        if s.sort and rows:
            rows = sort_rows(rows, s.sort)
        for name in s.export:
            export(Path(name), rows, self.run, digits=s.precision, columns=s.columns)
        if s.format == "table":
            self._table(rows)
        elif s.format != "jsonl":
            ending = _ENDINGS.get(s.format, s.format)
            write_out(render(ending, rows, self.run, digits=s.precision, columns=s.columns))

    def _shown(self, rows: Sequence[Row]) -> list[Row]:
        return [r for r in rows if self.settings.per_layer or r.scope == NETWORK]

    def _table(self, rows: Sequence[Row]) -> None:
        """Nothing where nothing was measured: stderr has said why."""
        s, width = self.settings, page_width()
        if not any(row.sha256 for row in rows):
            return
        grid = pivot(rows, digits=s.precision, columns=s.columns, notes=self.notes)
        write_out(render_text(ascii_grid(grid) if ascii_only(sys.stdout) else grid, width=width))
        if s.per_layer:
            write_out("\n" + render_parts(rows, width=width, digits=s.precision))
