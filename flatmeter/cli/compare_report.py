"""What ``flatmeter compare`` does: read, rank, correlate, print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flatmeter.cli.merge_report import read
from flatmeter.cli.streams import complain, page_width, say, write_out
from flatmeter.config.schema import Settings
from flatmeter.config.wording import one_of
from flatmeter.errors import ExitCode, UsageError
from flatmeter.results.beside import Beside
from flatmeter.results.comparable import fields
from flatmeter.results.comparison import compare
from flatmeter.results.comparison_text import FORMS, render
from flatmeter.results.number import counted, some
from flatmeter.results.pivot import check_columns
from flatmeter.results.record import NETWORK, Row
from flatmeter.results.side_table import read_side_table


def report(
    folders: Sequence[Path],
    settings: Settings,
    table: Path | None,
    columns: Sequence[str],
    by: str | None,
) -> ExitCode:
    """Compare what folders hold.

    Args:
        folders: of results.
        settings: of the output.
        table: a CSV beside them.
        columns: to correlate with.
        by: column of groups.

    Returns:
        ``FAILED`` where results contradict each other, or no correlation is defined.
    """
    _check(settings, table, columns, by)
    side = read_side_table(table) if table else None
    joined = read(folders)
    _check_measures(settings.columns, joined.rows)
    beside = Beside(side, joined.rows, [*columns, *([by] if by else [])])
    _tell(beside, table)
    found = compare(
        fields(joined.groups, settings.columns),
        beside,
        columns,
        by,
        confidence=settings.confidence,
        seed=settings.seed,
    )
    text = render(settings.format, found, width=page_width(), digits=settings.precision)
    write_out(text)
    undefined = bool(columns) and not any(one.correlation.spearman for one in found.related)
    if undefined:
        reasons = dict.fromkeys(one.correlation.reason for one in found.related)
        complain(f"no correlation: {'; '.join(reasons) or 'nothing is measured'}")
    return ExitCode.FAILED if joined.conflicts or undefined else ExitCode.OK


def _check(settings: Settings, table: Path | None, columns: Sequence[str], by: str | None) -> None:
    if settings.format not in FORMS:
        raise UsageError(
            f"a comparison cannot be written as {settings.format!r}",
            where="--format",
            hint=f"use {one_of(FORMS)}",
        )
    if (table or by) and not columns:
        raise UsageError(
            f"{'--with' if table else '--by'} needs a column to correlate measures with",
            hint="name it by --column",
        )


def _check_measures(columns: Sequence[str], rows: Sequence[Row]) -> None:
    measured = [(row.measure, row.quantity) for row in rows if row.scope == NETWORK]
    check_columns(columns, measured, "--columns")
    for name in columns:
        if name.partition(".")[0] not in {measure for measure, _ in measured}:
            raise UsageError(
                f"{name} is no measure", where="--columns", hint="to correlate with it: --column"
            )


def _tell(beside: Beside, table: Path | None) -> None:
    """What the CSV and the results do not have in common."""
    for names, what in (
        (beside.unknown, "in no folder"),
        (beside.missing, "not in the CSV, and left out of correlations"),
    ):
        if names:
            say(f"note: {table}: {counted(len(names), 'checkpoint')} {what}: {some(names)}")
