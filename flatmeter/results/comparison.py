"""Rankings of checkpoints by each measure, and how they go with other columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flatmeter.results.beside import Beside
from flatmeter.results.comparable import Field
from flatmeter.results.correlation import Correlation, correlate
from flatmeter.results.ranking import Ranking, rank
from flatmeter.results.record import Row


@dataclass(frozen=True)
class Related:
    """How one quantity goes with a column.

    Args:
        field: the quantity.
        column: that it is compared with.
        by: column whose values are the groups, ``None`` where there are none.
        group: of checkpoints, ``None`` for all.
        correlation: of the two.
    """

    field: Field
    column: str
    by: str | None
    group: str | None
    correlation: Correlation


@dataclass(frozen=True)
class Comparison:
    """Everything that ``flatmeter compare`` shows.

    Args:
        rankings: by each quantity.
        related: correlations, in the order of quantities, columns and groups.
        confidence: coverage of the intervals of the correlations.
        seed: of their resampling.
    """

    rankings: tuple[tuple[Field, Ranking], ...]
    related: tuple[Related, ...]
    confidence: float
    seed: int


def compare(
    fields: Sequence[Field],
    beside: Beside,
    columns: Sequence[str],
    by: str | None,
    *,
    confidence: float,
    seed: int,
) -> Comparison:
    """Rank checkpoints, and correlate each quantity with each column.

    Args:
        fields: the quantities.
        beside: where the columns are found.
        columns: to correlate with.
        by: column whose values are groups, each to be correlated by itself too.
        confidence: coverage of the intervals of the correlations.
        seed: of their resampling.

    Raises:
        UsageError: a column does not hold numbers.
    """
    related = []
    for field in fields:
        for column in columns:
            for group, rows in _groups(field.rows, beside, by):
                pairs = [(row.value, beside.number(row, column)) for row in rows]
                whole = [(x, y) for x, y in pairs if x is not None and y is not None]
                found = correlate(
                    [x for x, _ in whole], [y for _, y in whole], confidence=confidence, seed=seed
                )
                related.append(Related(field, column, by, group, found))
    rankings = tuple((field, rank(field.rows)) for field in fields)
    return Comparison(rankings, tuple(related), confidence, seed)


def _groups(
    rows: Sequence[Row], beside: Beside, by: str | None
) -> Iterator[tuple[str | None, list[Row]]]:
    """All rows, then those of each group; rows without a group are in none."""
    yield None, list(rows)
    if by is not None:
        words = [(beside.word(row, by), row) for row in rows]
        for group in sorted({word for word, _ in words if word is not None}):
            yield group, [row for word, row in words if word == group]
