"""Rows into a grid: one line per checkpoint, one column per measure, reasons as footnotes."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from flatmeter.errors import UsageError
from flatmeter.estimate import Why
from flatmeter.results.apart import NOTE, apart
from flatmeter.results.number import format_error, format_number
from flatmeter.results.record import NETWORK, Row

_NOTEWORTHY = {Why.LOWER_BOUND.value}


@dataclass(frozen=True)
class Column:
    """A column of the grid.

    Args:
        name: as ``--columns`` and ``--sort`` take it.
        heading: lines of the heading.
    """

    name: str
    heading: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """What every table shows, however it is drawn.

    Args:
        folder: common to all checkpoints and left out of their names, with a final separator.
        columns: after the checkpoint's name.
        lines: name of each checkpoint and its cells.
        footnotes: in order of their marks, then remarks on whole columns.
    """

    folder: str
    columns: tuple[Column, ...]
    lines: tuple[tuple[str, tuple[str, ...]], ...]
    footnotes: tuple[str, ...]


_FIELDS: dict[str, tuple[str, Callable[[Row, int], str]]] = {
    "loss": ("loss", lambda r, d: "" if r.loss is None else format_number(r.loss, d)),
    "accuracy": (
        "accuracy",
        lambda r, d: "" if r.accuracy is None else f"{100 * r.accuracy:.{max(d - 3, 0)}f} %",
    ),
    "n": ("N", lambda r, d: "" if r.n_data is None else str(r.n_data)),
}
_SECONDS = "seconds"


def sort_rows(rows: Sequence[Row], by: str) -> list[Row]:
    """Rows with their checkpoints in the order of a column; those without a value come last.

    Args:
        rows: of any number of checkpoints.
        by: a column's name; with a minus sign in front, the largest first.
    """
    name, sign = by.lstrip("-"), -1.0 if by.startswith("-") else 1.0
    values = {}
    for checkpoint, own in _by_checkpoint(rows).items():
        value = _number(own, name)
        values[checkpoint] = (value is None, sign * (value or 0.0))
    return sorted(rows, key=lambda row: values[row.checkpoint])


def pivot(
    rows: Sequence[Row], *, digits: int = 4, columns: Sequence[str] = (), notes: bool = False
) -> Grid:
    """The grid of some rows.

    Args:
        rows: of any number of checkpoints.
        digits: significant digits of a value whose error does not show.
        columns: names of the columns, empty where a run ended before; loss, accuracy, N and every
            measure if left out.
        notes: add what the measures had to say about each value as footnotes.
    """
    network = apart([row for row in rows if row.scope == NETWORK])
    measures = list(dict.fromkeys(row.measure for row in network))
    names = list(columns) or [*_FIELDS, *measures]
    marks: dict[str, list[str]] = {}
    by_checkpoint = _by_checkpoint(network)
    folder = common_folder(list(by_checkpoint))
    lines = []
    for checkpoint, own in by_checkpoint.items():
        short = checkpoint[len(folder) :]
        cells = tuple(_cell(own, name, digits, short, marks, notes) for name in names)
        lines.append((short, cells))
    heads = tuple(Column(name, _heading(network, name)) for name in names)
    footnotes = _footnotes(marks, network, names, len(lines), digits)
    if len(by_checkpoint) > len({row.checkpoint for row in rows}):
        footnotes.append(NOTE)
    if any("±" in cell for _, cells in lines for cell in cells):
        footnotes += legend(network)
    return Grid(folder, heads, tuple(lines), tuple(footnotes))


def _by_checkpoint(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.checkpoint, []).append(row)
    return found


def common_folder(checkpoints: Sequence[str]) -> str:
    """The folder that all checkpoints share, else nothing."""
    folders = {os.path.dirname(name) for name in checkpoints}
    return f"{folders.pop()}{os.sep}" if len(folders) == 1 and "" not in folders else ""


def check_columns(names: Sequence[str], measured: Iterable[tuple[str, str]], option: str) -> None:
    """Refuse a column that no table of these measures has.

    Args:
        names: of columns.
        measured: measures and their quantities.
        option: that the names came from.

    Raises:
        UsageError: names the nearest column.
    """
    known = [*_FIELDS, _SECONDS]
    for measure, quantity in measured:
        known += [measure, f"{measure}.{quantity}"]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            nearest = f"did you mean {close[0]}? " if close else ""
            raise UsageError(
                f"there is no column {name!r}",
                where=option,
                hint=f"{nearest}known: {', '.join(dict.fromkeys(known))}",
            )


def _find(own: Sequence[Row], name: str) -> Row | None:
    """The row of ``measure`` (its first) or ``measure.quantity``."""
    measure, _, quantity = name.partition(".")
    fitting = [r for r in own if r.measure == measure]
    if quantity:
        lost = [r for r in fitting if r.value is None]
        fitting = [r for r in fitting if r.quantity == quantity] or lost
    return fitting[0] if fitting else None


def _number(own: Sequence[Row], name: str) -> float | None:
    if name in _FIELDS or name == _SECONDS:
        field = {"n": "n_data"}.get(name, name)
        values = [getattr(row, field) for row in own if getattr(row, field) is not None]
        return values[0] if values else None
    row = _find(own, name)
    return row.value if row else None


def _cell(
    own: Sequence[Row],
    name: str,
    digits: int,
    checkpoint: str,
    marks: dict[str, list[str]],
    notes: bool,
) -> str:
    if name in _FIELDS:
        return next(filter(None, (_FIELDS[name][1](row, digits) for row in own)), "")
    if name == _SECONDS:
        spent = {row.measure: row.seconds for row in own if row.seconds is not None}
        return f"{sum(spent.values()):.1f}"
    row = _find(own, name)
    if row is None:
        return ""
    text = row.status if row.value is None else format_error(row.value, row.half_width, digits)
    note = _note(row, notes)
    if not note:
        return text
    said = note if _of_all(own, row) else f"{row.measure}: {note}"
    marks.setdefault(said, []).append(checkpoint)
    return f"{text} [{list(marks).index(said) + 1}]"


def _of_all(own: Sequence[Row], row: Row) -> bool:
    """All measures of the checkpoint failed alike, which is no fault of any of them."""
    several = len({r.measure for r in own}) > 1
    return several and all((r.status, r.message) == ("error", row.message) for r in own)


def _note(row: Row, notes: bool) -> str:
    if row.status in ("n/a", "error"):
        return row.message
    said = "; ".join(filter(None, [row.message, _of_sample(row)])) if notes else ""
    if row.status == "unconverged":
        return f"did not converge: {row.why}" + (f"; {said}" if said else "")
    return said


def _of_sample(row: Row) -> str:
    """What is known of the error from measuring on a sample of the data."""
    if row.stderr_data is None:
        return ""
    error = format_number(row.stderr_data, 2)
    return f"standard error from this sample of the data: {error}" if row.stderr_data else ""


def _footnotes(
    marks: dict[str, list[str]],
    rows: Sequence[Row],
    names: Sequence[str],
    total: int,
    digits: int,
) -> list[str]:
    found = []
    for number, (note, checkpoints) in enumerate(marks.items(), start=1):
        own = list(dict.fromkeys(checkpoints))
        whose = f" ({', '.join(own)})" if len(own) < total else ""
        found.append(f"[{number}] {note}{whose}")
    shown = [(name, _find(own, name)) for own in _by_checkpoint(rows).values() for name in names]
    found += _untold(rows, [row for _, row in shown if row])
    said = {(name, row.why) for name, row in shown if row and row.why in _NOTEWORTHY}
    found += [f"{name}: {why}" for name, why in sorted(said)]
    found += _coarse([row for _, row in shown if row and row.value is not None], digits)
    sampled = any(row and row.stderr_data for _, row in shown)
    return found + ["a sample of the data was measured: -v tells what that may change"] * sampled


def _coarse(shown: Sequence[Row], digits: int) -> list[str]:
    """By how much the arithmetic was off, where that is more than the last digit of a value."""
    off: dict[str, float] = {}
    for row in shown:
        dtype, error = row.dtype or "this dtype", row.rounding or 0.0
        if error > 10.0**-digits:
            off[dtype] = max(off.get(dtype, 0.0), error)
    return [
        f"computed in {dtype}: curvature products were off by up to {100 * error:.2g} %, and exact "
        "values may be by as much"
        for dtype, error in off.items()
    ]


def _untold(rows: Sequence[Row], shown: Sequence[Row]) -> list[str]:
    """What did not converge of that which is not shown, and ends the run with another code."""
    known = {id(row) for row in shown}
    lost: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        if row.status == "unconverged" and id(row) not in known:
            lost.setdefault((row.measure, row.why), {})[row.quantity] = None
    return [
        f"{measure}: {_few(list(own))} did not converge: {why}"
        for (measure, why), own in lost.items()
    ]


def _few(names: Sequence[str], most: int = 3) -> str:
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def legend(rows: Sequence[Row]) -> list[str]:
    """What ± means; left out where intervals of different coverage were brought together."""
    coverages = {r.confidence for r in rows if r.confidence is not None}
    if len(coverages) != 1:
        return []
    percent = f"{100 * coverages.pop():g}"
    return [f"± is half the {percent} % interval; without ±, the error is below the last digit"]


def _heading(rows: Sequence[Row], name: str) -> tuple[str, ...]:
    """Lines of a column's heading: the name cut at its underscores, quantity, batch-norm mode."""
    if name in _FIELDS:
        return (_FIELDS[name][0],)
    if name == _SECONDS:
        return (name,)
    measure, _, quantity = name.partition(".")
    own = [r for r in rows if r.measure == measure]
    shown = quantity or next((r.quantity for r in own if r.value is not None), "value")
    words = measure.split("_")
    lines = [f"{word}_" for word in words[:-1]] + [words[-1]]
    if shown != "value":
        lines.append(f".{shown}")
    modes = sorted({r.bn_mode for r in own if r.bn_mode})
    return (*lines, *(f"bn {mode}" for mode in modes))
