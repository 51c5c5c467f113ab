"""Lines of a table for what was measured of one checkpoint more than once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flatmeter.results.record import Row

NOTE = (
    "(2), (3), …: measured of a checkpoint of this name with other settings, data or weights; "
    "rows in CSV and JSON tell them apart"
)


def apart(rows: Sequence[Row]) -> list[Row]:
    """The rows, a number behind the checkpoint's name where a measure has another key than before.

    A table has one cell for a checkpoint and a measure, and must not choose what it shows.
    """
    keys: dict[tuple[str, str], list[str]] = {}
    named = []
    for row in rows:
        own = keys.setdefault((row.checkpoint, row.measure), [])
        if row.key not in own:
            own.append(row.key)
        number = own.index(row.key) + 1
        name = row.checkpoint if number == 1 else f"{row.checkpoint} ({number})"
        named.append(row if number == 1 else replace(row, checkpoint=name))
    return named
