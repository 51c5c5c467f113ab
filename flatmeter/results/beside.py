"""What else is known of checkpoints: columns of a CSV, or of the rows themselves."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from flatmeter.errors import UsageError
from flatmeter.results.record import COLUMNS, Row
from flatmeter.results.side_table import Line, SideTable, join_lines, number_in


class Beside:
    """Columns to compare measures with. A column of the CSV comes before one of the rows.

    Args:
        table: the CSV, if any.
        rows: of all checkpoints.
        wanted: columns that will be asked for.

    Attributes:
        unknown: names in the CSV that fit no checkpoint.
        missing: checkpoints that the CSV does not name.

    Raises:
        UsageError: there is no such column, or lines of the CSV are not clear.
    """

    def __init__(self, table: SideTable | None, rows: Sequence[Row], wanted: Sequence[str]) -> None:
        self._table = table
        known = [*(table.columns if table else ()), *COLUMNS]
        for name in wanted:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                nearest = f"did you mean {close[0]}? " if close else ""
                own = f"of {table.path}: {', '.join(table.columns)}; " if table else ""
                raise UsageError(
                    f"there is no column {name!r}",
                    where="--column",
                    hint=f"{nearest}columns {own}of the rows: {', '.join(COLUMNS)}",
                )
        checkpoints = {row.checkpoint: row.sha256 for row in rows}
        self._lines: Mapping[str, Line] = {}
        self.unknown: list[str] = []
        if table is not None:
            own_columns = [name for name in wanted if name in table.columns]
            self._lines, self.unknown = join_lines(table, checkpoints, own_columns)
            if not self._lines:
                raise UsageError(
                    f"none of its lines is about a checkpoint of these results: {table.by} is "
                    f"{', '.join(self.unknown[:3]) or 'empty'}, checkpoints are "
                    f"{', '.join(list(checkpoints)[:3])}",
                    where=str(table.path),
                )
        self.missing = [c for c in checkpoints if table is not None and c not in self._lines]

    def number(self, row: Row, column: str) -> float | None:
        """The number in a column, ``None`` where there is none.

        Raises:
            UsageError: there is something else.
        """
        if self._table is not None and column in self._table.columns:
            line = self._lines.get(row.checkpoint)
            return None if line is None else number_in(self._table, line, column)
        value = getattr(row, column)
        if isinstance(value, str):
            raise UsageError(
                f"{column} is {value!r}, a number is needed", where="--column", hint="see --by"
            )
        return None if value is None else float(value)

    def word(self, row: Row, column: str) -> str | None:
        """The text in a column, ``None`` where there is none."""
        value: Any
        if self._table is not None and column in self._table.columns:
            line = self._lines.get(row.checkpoint)
            value = line[1][column] if line else None
        else:
            value = getattr(row, column)
        return None if value in (None, "") else str(value)
