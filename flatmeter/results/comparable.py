"""Which rows of a folder may stand in one ranking: of one quantity, measured in one way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from flatmeter.results.agreement import RELATIVE
from flatmeter.results.number import some
from flatmeter.results.record import Row

_TELLING = ("definition", "bn_mode", "bn_batch", "dtype", "seed", "n_data")


@dataclass(frozen=True)
class Field:
    """One quantity of some checkpoints, measured in one way.

    Args:
        measure, quantity: that were measured.
        protocol: how.
        manner: what tells it from other fields of the same quantity, in words; empty if none.
        rows: one for each checkpoint, all with a value.
        left_out: why a checkpoint has no row, by its name.
        notes: what a reader should know.
    """

    measure: str
    quantity: str
    protocol: str
    manner: str = ""
    rows: list[Row] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As ``--columns`` takes it, with the manner."""
        name = self.measure if self.quantity == "value" else f"{self.measure}.{self.quantity}"
        return f"{name} ({self.manner})" if self.manner else name


def fields(groups: Iterable[Sequence[Row]], columns: Sequence[str] = ()) -> list[Field]:
    """The fields of some measurements, in the order of measures.

    Args:
        groups: rows of each measurement, headline first.
        columns: measures, or ``measure.quantity``; the headline of each measure if left out.
    """
    listed = list(groups)
    headlines: dict[str, str] = {}
    for rows in listed:
        headlines.setdefault(rows[0].measure, rows[0].quantity)
    wanted = [_split(name, headlines) for name in columns] or list(headlines.items())
    found = []
    for measure, quantity in wanted:
        protocols: dict[str, list[Row]] = {}
        for rows in listed:
            if rows[0].measure == measure:
                protocols.setdefault(rows[0].protocol, []).append(_chosen(rows, quantity))
        manners = _manners(list(protocols.values()))
        for (protocol, own), manner in zip(protocols.items(), manners, strict=True):
            found.append(_settled(Field(measure, quantity, protocol, manner), own))
    return found


def _split(name: str, headlines: dict[str, str]) -> tuple[str, str]:
    measure, _, quantity = name.partition(".")
    return measure, quantity or headlines[measure]


def _chosen(rows: Sequence[Row], quantity: str) -> Row:
    """The row of a quantity of the network; the headline tells why there is none."""
    head = rows[0]
    return next((r for r in rows if (r.scope, r.quantity) == (head.scope, quantity)), head)


def _settled(into: Field, rows: Sequence[Row]) -> Field:
    """One row for each checkpoint, or the reason why there is none."""
    by_checkpoint: dict[str, list[Row]] = {}
    for row in rows:
        by_checkpoint.setdefault(row.checkpoint, []).append(row)
    repeated: list[str] = []
    for checkpoint, own in by_checkpoint.items():
        values = [row for row in own if row.value is not None and row.quantity == into.quantity]
        if not values:
            into.left_out[checkpoint] = own[-1].message or f"it has no {into.quantity}"
        elif not all(_same_thing(values[0], row) for row in values[1:]):
            into.left_out[checkpoint] = (
                "measured more than once under this name, with other weights, data or losses"
            )
        else:
            into.rows.append(min(values, key=_width))
            repeated += [checkpoint] * (len(values) > 1)
    if repeated:
        into.notes.append(
            f"measured more than once, to different accuracy, of which the narrowest interval is "
            f"taken: {some(repeated)}"
        )
    weights: dict[str, str] = {}
    pairs = [(weights.setdefault(row.sha256, row.checkpoint), row.checkpoint) for row in into.rows]
    twins = [f"{one} = {other}" for one, other in pairs if one != other]
    if twins:
        into.notes.append(f"equal weights under several names: {some(twins)}")
    if len({row.n_data for row in into.rows}) > 1:
        into.notes.append("not all checkpoints were measured on as many samples")
    return into


def _same_thing(a: Row, b: Row) -> bool:
    """Whether two rows of one protocol and checkpoint differ by nothing but their accuracy."""
    if (a.sha256, a.n_data) != (b.sha256, b.n_data) or (a.loss is None) != (b.loss is None):
        return False
    near = RELATIVE.get(a.dtype or "", RELATIVE["float32"])
    return a.loss is None or b.loss is None or math.isclose(a.loss, b.loss, rel_tol=near)


def _width(row: Row) -> float:
    if row.ci_low is None or row.ci_high is None:
        return math.inf
    return row.ci_high - row.ci_low


def _manners(fields_: Sequence[Sequence[Row]]) -> list[str]:
    """What tells protocols apart, as far as rows say it."""
    if len(fields_) < 2:
        return [""] * len(fields_)
    said = [{c: {getattr(r, c) for r in rows} for c in _TELLING} for rows in fields_]
    telling = [c for c in _TELLING if any(one[c] != said[0][c] for one in said)]
    manners = [
        ", ".join(f"{c} {'/'.join(sorted(map(str, one[c])))}" for c in telling) for one in said
    ]
    return [
        text if text and manners.count(text) == 1 else f"{text}{', ' * bool(text)}settings {n + 1}"
        for n, text in enumerate(manners)
    ]
