"""Results: the rows of a run, looked up by name, shown as a table, written as files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from flatmeter.errors import UsageError
from flatmeter.results.record import NETWORK, Row


class Results(Sequence[Row]):
    """The rows of one or many measurements, in the order in which they were measured.

    Args:
        rows: of any number of checkpoints and measures.
        run: settings, versions and device; written into JSON.
    """

    def __init__(self, rows: Iterable[Row], run: Mapping[str, Any] | None = None) -> None:
        self.rows = list(rows)
        self.run = dict(run or {})

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        """The row at a position."""
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __str__(self) -> str:
        return self.table()

    def row(
        self,
        measure: str,
        quantity: str | None = None,
        *,
        checkpoint: str | None = None,
        scope: str = NETWORK,
    ) -> Row:
        """The one row of a measure.

        Args:
            measure: its name.
            quantity: name of the quantity; the headline if left out.
            checkpoint: needed where several were measured.
            scope: ``network``, or the name of a layer or tensor.

        Raises:
            UsageError: no row, or rows of several checkpoints, fit.
        """
        found = [
            row
            for row in self.rows
            if row.measure == measure
            and row.scope == scope
            and quantity in (None, row.quantity)
            and checkpoint in (None, row.checkpoint)
        ]
        wanted = f"{measure}{'.' + quantity if quantity else ''} of {scope}"
        if not found:
            raise UsageError(f"no result for {wanted}", hint=f"there are: {self._measured()}")
        if len({row.checkpoint for row in found}) > 1:
            names = ", ".join(dict.fromkeys(row.checkpoint for row in found))
            raise UsageError(f"several checkpoints have {wanted}: say which of {names}")
        return found[0]

    def value(
        self,
        measure: str,
        quantity: str | None = None,
        *,
        checkpoint: str | None = None,
        scope: str = NETWORK,
    ) -> float:
        """The number of :meth:`row`.

        Raises:
            UsageError: there is no such row, or it has no value; says why.
        """
        row = self.row(measure, quantity, checkpoint=checkpoint, scope=scope)
        if row.value is None:
            raise UsageError(f"{measure} has no value ({row.status}): {row.message}")
        return row.value

    def table(self, *, width: int = 80, digits: int = 4, columns: Sequence[str] = ()) -> str:
        """The table that the command line prints.

        Args:
            width: of the page in characters; wide tables continue below.
            digits: significant digits of a value whose error does not show.
            columns: ``loss``, ``accuracy``, ``n``, ``seconds``, a measure, or ``measure.quantity``;
                all measures if left out.

        Raises:
            UsageError: there is no such column.
        """
        from flatmeter.results.pivot import check_columns, pivot
        from flatmeter.results.table import render_text

        own = [(row.measure, row.quantity) for row in self.rows if row.scope == NETWORK]
        check_columns(columns, own, "columns")
        return render_text(pivot(self.rows, digits=digits, columns=columns), width=width)

    def to_json(self) -> str:
        """``{"schema_version": 1, "run": {…}, "rows": [{…}, …]}``."""
        from flatmeter.results.exporters import to_json

        return to_json(self.rows, self.run)

    def export(self, path: str | Path) -> Path:
        """Write a file in the format that its ending names: csv, json, jsonl, md, tex or html."""
        from flatmeter.results.exporters import export

        return export(Path(path), self.rows, self.run)

    def _measured(self) -> str:
        return ", ".join(dict.fromkeys(f"{r.measure}.{r.quantity}" for r in self.rows)) or "none"
