"""Whether two measurements of the same key are the same up to rounding."""

from __future__ import annotations

from collections.abc import Sequence

from flatmeter.results.record import Row

RELATIVE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 1e-2}
"""By how much rounding changes a value at most, relatively, where nothing larger was measured:
other batches, devices and numbers of processes add the same terms in another order."""

_NUMBERS = ("value", "ci_low", "ci_high")


def agree(a: Sequence[Row], b: Sequence[Row]) -> bool:
    """Whether two measurements have the same rows with the same numbers."""
    return not differing(a, b)


def differing(a: Sequence[Row], b: Sequence[Row]) -> list[tuple[Row | None, Row | None]]:
    """The rows, by scope and quantity, in which two measurements of one key contradict each other.

    Args:
        a: rows of one.
        b: rows of the other.

    Returns:
        Both rows, ``None`` for one that is not there.
    """
    ours, theirs = ({(r.scope, r.quantity): r for r in rows} for rows in (a, b))
    pairs = [(ours.get(name), theirs.get(name)) for name in dict.fromkeys([*ours, *theirs])]
    return [(one, two) for one, two in pairs if one is None or two is None or not _equal(one, two)]


def _equal(a: Row, b: Row) -> bool:
    if a.value is None or b.value is None:
        return a.value is b.value and a.status == b.status
    allowed = _rounding(a, b)
    for name in _NUMBERS:
        one, two = getattr(a, name), getattr(b, name)
        if (one is None) != (two is None):
            return False
        if one is not None and abs(one - two) > allowed:
            return False
    return True


def _rounding(a: Row, b: Row) -> float:
    """By how much rounding may set two values apart.

    A mean of probes that cancel is rounded by its terms, which its standard error tells. An
    eigenvalue is only as certain as its residual.
    """
    relative = max(
        RELATIVE.get(a.dtype or "", RELATIVE["float32"]),
        *(10.0 * row.rounding for row in (a, b) if row.rounding is not None),
        0.0,
    )
    size = max(abs(x) for row in (a, b) for x in (row.value or 0.0, row.stderr or 0.0))
    return relative * size + (a.residual or 0.0) + (b.residual or 0.0)
