"""``flatmeter measure --dry-run``: what would be done, and what one gradient costs here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from flatmeter.cli.streams import complain, write_out
from flatmeter.errors import ExitCode, FlatmeterError
from flatmeter.execution import Known
from flatmeter.plan import Plan
from flatmeter.results.key import key_of
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.subject import Loader, Subject
from flatmeter.workbench import Workbench


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
    return "\n".join(lines) + "\n"


def _subject(subject: Subject, plan: Plan, known: Known | None) -> str:
    bench = Workbench(subject, plan)
    risk = bench.risk("eval")
    done = [
        m.name
        for m in plan.measures
        if known and known(key_of(plan.ingredients(subject, m)), m.quantities[0]) is not None
    ]
    seconds = _gradient_seconds(risk)
    megabytes = risk.space.dim * risk.theta.element_size() / 2**20
    lines = [
        f"{subject.name}: {risk.space.dim:,} parameters in {len(risk.space.names)} tensors, "
        f"{len(subject.data)} samples of {subject.data.name}",
        f"  to measure: {len(plan.measures) - len(done)}, finished before: {len(done)}",
        f"  micro-batches of {min(risk.batch_size, risk.n)} samples; one vector of parameters "
        f"takes {megabytes:.3g} MiB",
        f"  one gradient over the data takes about {seconds:.2g} s, a curvature product 2 to 4 "
        "times that",
    ]
    return "\n".join(lines) + "\n"


def _gradient_seconds(risk: EmpiricalRisk) -> float:
    """From the second of two timed gradients of the first batch."""
    x, y = next(iter(risk.batches()))
    point = risk.theta.detach().requires_grad_()
    elapsed = 0.0
    for _ in range(2):
        started = time.perf_counter()
        gradient = torch.autograd.grad(risk.total(point, x, y), point, materialize_grads=True)[0]
        gradient.cpu()
        elapsed = time.perf_counter() - started
    return elapsed * risk.n / len(x)
