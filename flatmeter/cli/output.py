"""What ``flatmeter measure`` prints and exports."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flatmeter.cli.streams import ascii_only, complain, page_width, write_out
from flatmeter.config.schema import Settings
from flatmeter.results.atomic import OutputError
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
        self._places: dict[str, int] = {}
        #: Exports that could not be written.
        self.lost: list[str] = []

    def check(self, quantities: Sequence[tuple[str, str]]) -> None:
        """Refuse what could not be shown at the end.

        Args:
            quantities: measures and their quantities.

        Raises:
            UsageError: an unknown column or ending.
        """
        check_columns(self.settings.columns, quantities, "--columns")
        if self.settings.sort:
            check_columns([self.settings.sort.lstrip("-")], quantities, "--sort")
        for name in self.settings.export:
            check_ending(Path(name))

    def in_order(self, paths: Iterable[Path]) -> Iterator[Path]:
        """The checkpoints, whose rows are shown in this order, whichever comes first."""
        for path in paths:
            self._places.setdefault(str(path), len(self._places))
            yield path

    def add(self, rows: Sequence[Row]) -> None:
        """The rows of one measure; lines of JSON are printed at once."""
        self.rows += self._shown(rows)
        if self.settings.format == "jsonl":
            write_out(to_jsonl(self._shown(rows)))

    def finish(self) -> None:
        """Print what is not yet printed, and write each export whatever became of the others."""
        try:
            self._print(self._sorted())
        finally:
            self.write_exports()

    def write_exports(self) -> None:
        """Write each export, whatever became of the others."""
        for name in self.settings.export:
            self._export(name, self._sorted())

    def _sorted(self) -> list[Row]:
        rows = sorted(self._shown(self.rows), key=lambda row: self._places.get(row.checkpoint, 0))
        return sort_rows(rows, self.settings.sort) if self.settings.sort else rows

    def _export(self, name: str, rows: Sequence[Row]) -> None:
        s = self.settings
        try:
            export(Path(name), rows, self.run, digits=s.precision, columns=s.columns)
        except OutputError as error:
            complain(str(error))
            self.lost.append(name)

    def _print(self, rows: Sequence[Row]) -> None:
        s = self.settings
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
