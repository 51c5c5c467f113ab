"""``flatmeter measure --dry-run``: what would be done, and what it usually costs here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from flatmeter.cli.streams import complain, write_out
from flatmeter.curvature.products import HessianOperator
from flatmeter.errors import ExitCode, FlatmeterError
from flatmeter.execution import Known
from flatmeter.measures.base import Measure
from flatmeter.measures.expense import Expense
from flatmeter.plan import Plan
from flatmeter.ranks.group import current
from flatmeter.results.key import key_of
from flatmeter.risk.cost import PRODUCT
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.subject import Loader, Subject
from flatmeter.workbench import Workbench

PRODUCT_VECTORS = 11
"""Vectors of the parameters' length that one product makes on its way, as measured."""


def describe(plan: Plan, paths: Sequence[Path], loader: Loader, known: Known | None) -> ExitCode:
    """Print the plan.

    Args:
        plan: of the run.
        paths: of the checkpoints.
        loader: reads them.
        known: gives the rows that were measured before.

    Returns:
        ``FAILED`` where a checkpoint cannot be measured (told on stderr).
    """
    write_out(_measures(plan))
    code = ExitCode.OK
    for path in paths:
        try:
            write_out(_subject(loader.load(path), plan, known))
        except FlatmeterError as error:
            complain(f"{path}: {error}" if str(path) not in str(error) else str(error))
            code = error.exit_code if len(paths) == 1 else ExitCode.FAILED
    return code


def _measures(plan: Plan) -> str:
    lines = [f"on {plan.device} in {plan.dtype}, seed {plan.seed}; measures:"]
    for measure in plan.measures:
        options = measure.settings.model_dump(mode="json")
        shown = ", ".join(f"{k}={v}" for k, v in options.items() if v is not None)
        lines.append(f"  {measure.name} (bn {plan.mode(measure)}) {shown}".rstrip())
    if current().size > 1:
        lines.insert(0, f"{current().size} processes, each with its part of the data")
    return "\n".join(lines) + "\n"


def _subject(subject: Subject, plan: Plan, known: Known | None) -> str:
    bench = Workbench(subject, plan)
    risk = bench.risk("eval")
    done = {
        m.name
        for m in plan.measures
        if known and known(key_of(plan.ingredients(subject, m)), m.quantities[0]) is not None
    }
    pace = Pace.of(risk)
    lines = [
        f"{subject.name}: {risk.space.dim:,} parameters in {len(risk.space.names)} tensors, "
        f"{len(subject.data)} samples of {subject.data.name}",
        f"  to measure: {len(plan.measures) - len(done)}, finished before: {len(done)}",
        f"  micro-batches of {min(risk.batch_size, risk.n)} samples, graphs of products "
        f"{'kept' if risk.graphs_fit else 'built anew for each'}",
        f"  over the data, here: gradient {span(pace.gradient)}, curvature product "
        f"{span(pace.product)}",
    ]
    ahead = [m for m in plan.measures if m.name not in done]
    return "\n".join(lines) + "\n" + _costs(ahead, pace)


def _costs(measures: Sequence[Measure], pace: Pace) -> str:
    """What each measure usually costs, as a table."""
    rows = [("", "gradients", "time", "memory")]
    for measure in measures:
        expense = measure.expense(pace.columns)
        if expense is None:
            rows.append((measure.name, "unknown", "", ""))
            continue
        low, high = pace.seconds(expense.low), pace.seconds(expense.high)
        counts = _range(f"{expense.low:.0f}", f"{expense.high:.0f}")
        mebibytes = pace.bytes(expense) / 2**20
        rows.append((measure.name, counts, _range(span(low), span(high)), f"{mebibytes:,.0f} MiB"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(["  " + row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in rows
    ]
    note = "  usual figures, a guide and no bound; memory beside the program's own\n"
    return "\n".join(line.rstrip() for line in lines) + "\n" + note


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def span(seconds: float) -> str:
    """A duration for people, to two digits."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s"


@dataclass(frozen=True)
class Pace:
    """What the network costs on this machine.

    Args:
        gradient, product: seconds for one over all the data.
        columns: of the output's curvature.
        vector: bytes of one vector as long as the parameters.
        graphs: bytes of the graphs that are held at once.
    """

    gradient: float
    product: float
    columns: int
    vector: int
    graphs: int

    @classmethod
    def of(cls, risk: EmpiricalRisk) -> Pace:
        """Measured on the first batch."""
        x, y = risk.first_batch()
        part = risk.excerpt(len(x), risk.dtype)
        vector = torch.ones(1, risk.space.dim, dtype=risk.dtype, device=risk.device)
        operator = HessianOperator(part)
        with torch.no_grad():
            columns = risk.loss.columns(risk.outputs(risk.theta, x[:2]), y[:2])
        return cls(
            gradient=_seconds(part.gradient) * risk.held / len(x),
            product=_seconds(lambda: operator.matmat(vector)) * risk.held / len(x),
            columns=columns,
            vector=risk.space.dim * risk.dtype.itemsize,
            graphs=risk.graph_bytes,
        )

    def seconds(self, gradients: float) -> float:
        """Time for work of this many gradients, most of it products where there are many."""
        return gradients * max(self.gradient, self.product / PRODUCT)

    def bytes(self, expense: Expense) -> int:
        """Most memory, without the program and the network themselves."""
        return self.graphs + (PRODUCT_VECTORS + expense.vectors) * self.vector


def _seconds(work: Callable[[], Tensor]) -> float:
    """Of the second run of two."""
    elapsed = 0.0
    for _ in range(2):
        started = time.perf_counter()
        work().cpu()
        elapsed = time.perf_counter() - started
    return elapsed
