"""What measures cost here, as text: for ``--dry-run`` and ``flatmeter bench``."""

from __future__ import annotations

from collections.abc import Sequence

from flatmeter.cli.units import size, span
from flatmeter.measures.base import Measure
from flatmeter.pace import Pace
from flatmeter.risk.empirical import EmpiricalRisk


def memory_plan(risk: EmpiricalRisk) -> str:
    """How much of the data products take at once, in words."""
    return (
        f"micro-batches of {min(risk.batch_size, risk.n)} samples, graphs of products "
        f"{'kept' if risk.graphs_fit else 'built anew for each'}"
    )


def cost_table(measures: Sequence[Measure], pace: Pace) -> str:
    """What each measure usually costs."""
    rows = [("", "gradients", "time", "memory")]
    for measure in measures:
        expense = measure.expense(pace.columns)
        if expense is None:
            rows.append((measure.name, "unknown", "", ""))
            continue
        low, high = pace.seconds(expense.low), pace.seconds(expense.high)
        counts = _range(f"{expense.low:.0f}", f"{expense.high:.0f}")
        rows.append(
            (measure.name, counts, _range(span(low), span(high)), size(pace.bytes(expense)))
        )
    note = "  usual figures, a guide and no bound; memory beside the program's own\n"
    return columns(rows) + note


def columns(rows: Sequence[Sequence[str]], indent: int = 2) -> str:
    """Rows of text, the first column to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([" " * indent + row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in rows
    ]
    return "".join(line.rstrip() + "\n" for line in lines)


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"
