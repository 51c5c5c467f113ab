"""Checkpoints in the order of a measure, and which of them its intervals cannot tell apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flatmeter.results.record import Row


@dataclass(frozen=True)
class Ranked:
    """A checkpoint in a ranking.

    Args:
        row: its value.
        rank: by the value, from 1, the smallest first; equal values share one.
        rank_low, rank_high: the ranks that its interval and those of the others leave open.
        groups: numbers of the groups that it is in, from 0.
    """

    row: Row
    rank: int
    rank_low: int
    rank_high: int
    groups: tuple[int, ...]


@dataclass(frozen=True)
class Ranking:
    """Checkpoints by one quantity.

    Args:
        ranked: the smallest value first.
        groups: checkpoints whose intervals have a point in common, two or more, none of these
            groups within another.
    """

    ranked: tuple[Ranked, ...]
    groups: tuple[tuple[str, ...], ...]


def rank(rows: Sequence[Row]) -> Ranking:
    """The order of some checkpoints.

    Args:
        rows: of one quantity, one for each checkpoint, all with a value. Where an end of the
            interval is unknown it may be anywhere.
    """
    rows = sorted(rows, key=lambda row: row.value or 0.0)
    ends = [interval(row) for row in rows]
    lows, highs = sorted(low for low, _ in ends), sorted(high for _, high in ends)
    groups = [group for group in _cliques(ends) if len(group) > 1]
    own: dict[int, list[int]] = {}
    for number, group in enumerate(groups):
        for index in group:
            own.setdefault(index, []).append(number)
    first: dict[float | None, int] = {}
    ranked = [
        Ranked(
            row,
            rank=first.setdefault(row.value, index + 1),
            rank_low=1 + _count_below(highs, low),
            rank_high=_count_up_to(lows, high),
            groups=tuple(own.get(index, ())),
        )
        for index, (row, (low, high)) in enumerate(zip(rows, ends, strict=True))
    ]
    names = tuple(tuple(rows[index].checkpoint for index in group) for group in groups)
    return Ranking(tuple(ranked), names)


def interval(row: Row) -> tuple[float, float]:
    """The interval of a value, infinite where an end is unknown."""
    low = -math.inf if row.ci_low is None else row.ci_low
    return low, math.inf if row.ci_high is None else row.ci_high


def _count_below(ordered: Sequence[float], limit: float) -> int:
    from bisect import bisect_left

    return bisect_left(ordered, limit)


def _count_up_to(ordered: Sequence[float], limit: float) -> int:
    from bisect import bisect_right

    return bisect_right(ordered, limit)


def _cliques(ends: Sequence[tuple[float, float]]) -> list[list[int]]:
    """The largest sets of intervals with a point in common, from left to right.

    Of intervals on a line, those that overlap in pairs have a point that is common to all: a set
    is as large as it gets where an interval ends after one that has just begun.
    """
    begins = [(low, 0, index) for index, (low, _) in enumerate(ends)]
    events = sorted(begins + [(high, 1, index) for index, (_, high) in enumerate(ends)])
    active: dict[int, None] = {}
    found: list[list[int]] = []
    grown = False
    for _, is_end, index in events:
        if is_end:
            if grown:
                found.append(sorted(active))
            del active[index]
        else:
            active[index] = None
        grown = not is_end
    return found
