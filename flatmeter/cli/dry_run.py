"""``flatmeter measure --dry-run``: what would be done, and what it usually costs here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flatmeter.cli.costs import cost_table, memory_plan
from flatmeter.cli.each import told, with_each
from flatmeter.cli.streams import write_out
from flatmeter.cli.units import span
from flatmeter.errors import ExitCode
from flatmeter.execution import Known
from flatmeter.pace import Pace
from flatmeter.plan import Plan
from flatmeter.ranks.group import current
from flatmeter.results.key import key_of
from flatmeter.subject import Loader, Subject
from flatmeter.workbench import Workbench


def describe(
    plan: Plan, paths: Sequence[Path], loader: Loader, known: Known | None, jobs: int = 1
) -> ExitCode:
    """Print the plan.

    Args:
        plan: of the run.
        paths: of the checkpoints.
        loader: reads them.
        known: gives the rows that were measured before.
        jobs: processes that measure checkpoints of their own.

    Returns:
        ``FAILED`` where a checkpoint cannot be measured (told on stderr).
    """
    write_out(_measures(plan, jobs))
    return with_each(paths, lambda path: write_out(_subject(told(loader, path), plan, known)))


def _measures(plan: Plan, jobs: int) -> str:
    lines = [f"on {plan.device} in {plan.dtype}, seed {plan.seed}; measures:"]
    for measure in plan.measures:
        options = measure.settings.model_dump(mode="json")
        shown = ", ".join(f"{k}={v}" for k, v in options.items() if v is not None)
        lines.append(f"  {measure.name} (bn {plan.mode(measure)}) {shown}".rstrip())
    if jobs > 1:
        lines.insert(0, f"{jobs} processes, each with checkpoints of its own")
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
        f"  {memory_plan(risk)}",
        f"  over the data, here: gradient {span(pace.gradient)}, curvature product "
        f"{span(pace.products[0].seconds)} ({pace.products[0].strategy})",
    ]
    ahead = [m for m in plan.measures if m.name not in done]
    return "\n".join(lines) + "\n" + cost_table(ahead, pace)
