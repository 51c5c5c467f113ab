"""The report of ``flatmeter bench``, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from flatmeter.cli.costs import columns, cost_table, memory_plan
from flatmeter.cli.each import told, with_each
from flatmeter.cli.streams import write_out
from flatmeter.cli.units import size, span
from flatmeter.errors import ExitCode, UsageError
from flatmeter.pace import OPERATORS, PRODUCT_VECTORS, Pace
from flatmeter.plan import Plan
from flatmeter.results.record import SCHEMA_VERSION
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.subject import Loader, Subject
from flatmeter.workbench import Workbench

BLOCKS = (1, 4, 16, 64)
"""Numbers of vectors whose products are timed."""


def report(plan: Plan, paths: Sequence[Path], loader: Loader, form: str) -> ExitCode:
    """Print the costs of every checkpoint.

    Args:
        plan: of a run.
        paths: of the checkpoints.
        loader: reads them.
        form: ``table`` or ``json``.

    Returns:
        ``FAILED`` where a checkpoint cannot be measured (told on stderr).

    Raises:
        UsageError: another format.
    """
    if form not in ("table", "json"):
        raise UsageError(f"bench prints a table or json, not {form}", where="--format")
    found: list[dict[str, Any]] = []

    def one(path: Path) -> None:
        subject = told(loader, path)
        risk = Workbench(subject, plan).risk("eval")
        pace = Pace.of(risk, BLOCKS, tuple(OPERATORS))
        if form == "json":
            found.append(_entry(subject, plan, risk, pace))
        else:
            write_out(_text(subject, plan, risk, pace))

    code = with_each(paths, one)
    if form == "json":
        content = {"schema_version": SCHEMA_VERSION, "checkpoints": found}
        write_out(json.dumps(content, indent=2) + "\n")
    return code


def _text(subject: Subject, plan: Plan, risk: EmpiricalRisk, pace: Pace) -> str:
    appetite = risk.memory.appetite
    lines = [
        f"{subject.name}: {risk.space.dim:,} parameters in {len(risk.space.names)} tensors, "
        f"{len(subject.data)} samples of {subject.data.name}",
        f"  on {plan.device} in {plan.dtype}, {_threads(plan)}",
        f"  one gradient over the data: {span(pace.gradient)}",
    ]
    rows = [("products, for each vector", "vectors", "gradients", "time", "strategy")]
    for p in pace.products:
        gradients = f"{p.seconds / pace.gradient:.2f}"
        rows.append((p.curvature, str(p.vectors), gradients, span(p.seconds), p.strategy))
    memory = [
        f"  memory: {memory_plan(risk)}",
        f"    products may take {size(risk.memory.budget)}; one is to take "
        f"{size(risk.product_bytes)}",
        f"    and {PRODUCT_VECTORS} vectors of {size(pace.vector)}; a sample takes "
        f"{size(appetite.passing)}, its graph {size(appetite.kept)}",
    ]
    table = cost_table(plan.measures, pace)
    return "\n".join(lines) + "\n" + columns(rows) + "\n".join(memory) + "\n" + table


def _entry(subject: Subject, plan: Plan, risk: EmpiricalRisk, pace: Pace) -> dict[str, Any]:
    measures = {}
    for measure in plan.measures:
        expense = measure.expense(pace.columns)
        measures[measure.name] = (
            None
            if expense is None
            else {
                "gradients": [expense.low, expense.high],
                "seconds": [pace.seconds(expense.low), pace.seconds(expense.high)],
                "bytes": pace.bytes(expense),
            }
        )
    return {
        "checkpoint": subject.name,
        "parameters": risk.space.dim,
        "samples": risk.n,
        "device": plan.device,
        "dtype": plan.dtype,
        "threads": torch.get_num_threads(),
        "gradient_seconds": pace.gradient,
        "products": [
            {
                "curvature": p.curvature,
                "vectors": p.vectors,
                "strategy": p.strategy,
                "seconds": p.seconds,
                "gradients": p.seconds / pace.gradient,
            }
            for p in pace.products
        ],
        "memory": {
            "batch_size": min(risk.batch_size, risk.n),
            "graphs_kept": risk.graphs_fit,
            "budget_bytes": risk.memory.budget,
            "product_bytes": risk.product_bytes,
            "sample_bytes": risk.memory.appetite.passing,
            "vector_bytes": pace.vector,
        },
        "measures": measures,
    }


def _threads(plan: Plan) -> str:
    count = torch.get_num_threads()
    return "1 thread" if count == 1 else f"{count} threads"
