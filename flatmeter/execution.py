"""Runs the measures of a plan on a subject; one that fails does not stop the others."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from flatmeter.errors import ExitCode, FlatmeterError, NotApplicable, Stopped
from flatmeter.full_float32 import full_float32
from flatmeter.measures.base import Measure, Measurement
from flatmeter.out_of_memory import ran_out
from flatmeter.plan import Plan
from flatmeter.provenance import peak_bytes, reset_peak
from flatmeter.ranks.group import current
from flatmeter.results.key import key_of
from flatmeter.results.record import NETWORK, Row, rows_of
from flatmeter.risk.cost import Cost
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.risk.evaluation import Evaluation
from flatmeter.risk.non_finite import raise_non_finite
from flatmeter.subject import Subject
from flatmeter.watch import Watch
from flatmeter.workbench import Workbench, fingerprint

if TYPE_CHECKING:
    import numpy as np

Known = Callable[[str, str], "list[Row] | None"]
Saved = Callable[[str], "Mapping[str, np.ndarray]"]


@dataclass(frozen=True)
class Finished:
    """One measure of one checkpoint.

    Args:
        rows: headline first.
        state: raw numbers to be kept beside the rows.
        lineage: by which later measurements that go on from the state find it.
        reused: the rows were measured by an earlier run.
        code: exit code of a failure.
        trace: traceback of an exception that nobody foresaw.
    """

    rows: list[Row]
    state: Mapping[str, np.ndarray] = field(default_factory=dict)
    lineage: str | None = None
    reused: bool = False
    code: ExitCode = ExitCode.OK
    trace: str | None = None


def run(
    subject: Subject,
    plan: Plan,
    watch: Watch,
    known: Known | None = None,
    saved: Saved | None = None,
    blank: Sequence[Row] | None = None,
) -> Iterator[Finished]:
    """Every measure of the plan, as it finishes.

    Args:
        subject: what is measured.
        plan: how.
        watch: told what is being done; raises when the run must stop.
        known: gives the rows of a key and headline that were measured before.
        saved: gives the state of a lineage, to go on from.
        blank: what :func:`blank_rows` gives, where that is known already.

    Raises:
        Stopped: by the watch; the measure in flight is abandoned.
        FlatmeterError: nothing can be measured.
    """
    with full_float32():
        yield from _run(subject, plan, watch, known, saved, blank or blank_rows(subject, plan))


def _run(
    subject: Subject,
    plan: Plan,
    watch: Watch,
    known: Known | None,
    saved: Saved | None,
    blank: Sequence[Row],
) -> Iterator[Finished]:
    bench = Workbench(subject, plan)
    evaluation: Evaluation | None = None
    for measure_, base in zip(plan.measures, blank, strict=True):
        rows = _known(subject, measure_, base.key, known)
        if rows is not None:
            yield Finished([replace(row, checkpoint=subject.name) for row in rows], reused=True)
            continue
        if evaluation is None:
            before = fingerprint(subject.model)
            watch(f"{subject.name}: preflight")
            evaluation, notes = bench.prepare()
            for note in notes:
                watch.note(f"{subject.name}: {note}")
        yield _one(bench, measure_, base, evaluation, watch, saved)
        if fingerprint(subject.model) != before:
            raise FlatmeterError(f"{measure_.name} changed the network that it was given")


def _known(subject: Subject, measure_: Measure, key: str, known: Known | None) -> list[Row] | None:
    """What the first process knows of a measurement, which is to be the same one in all of them."""
    if not current().alike(key):
        raise FlatmeterError(
            f"the {current().size} processes of this measurement read different things for "
            f"{measure_.name}",
            where=subject.name,
            hint="weights, network, data, loss and settings must be the same for all of them; is "
            "there a data set that draws at random, or a file that is not on every machine?",
        )
    return current().from_first(lambda: known(key, measure_.quantities[0]) if known else None)


def _one(
    bench: Workbench,
    measure_: Measure,
    base: Row,
    evaluation: Evaluation,
    watch: Watch,
    saved: Saved | None,
) -> Finished:
    """One measure, with whatever happens to it as rows."""
    bn = bench.plan.mode(measure_)
    base = replace(base, loss=evaluation.loss, accuracy=evaluation.accuracy)
    watch(f"{bench.subject.name}: {measure_.name}")
    started = time.perf_counter()
    origin = bench.plan.lineage(bench.subject, measure_)
    lineage = None if origin is None else key_of(origin)
    try:
        before = current().from_first(lambda: saved(lineage) if saved and lineage else {})
        measurement, spent = _attempt(bench, measure_, watch, before)
        bench.check_untouched(bn, measure_)
        base = replace(base, seconds=round(time.perf_counter() - started, 4), **spent)
        if bench.subject.data.unseen == 0:
            base = replace(base, stderr_data=0.0)
        base = replace(base, rounding=bench.rounding(bn))
        if watch.reason is not None:
            watch.check()  # caught on its way up too, and what was left out for it is not known
        rows = rows_of(measurement, base, bench.plan.confidence)
        bad = any(row.status == "error" and row.scope == NETWORK for row in rows)
        code = ExitCode.FAILED if bad else ExitCode.OK
        return Finished(rows, measurement.state, lineage, code=code)
    except Stopped:
        raise
    except Exception as error:
        watch.check()  # a stop that was caught on its way up is no failure of the measure
        base = replace(base, seconds=round(time.perf_counter() - started, 4))
        return _failed(base, error, measure_)


def _attempt(
    bench: Workbench, measure_: Measure, watch: Watch, saved: Mapping[str, np.ndarray]
) -> tuple[Measurement, dict[str, Any]]:
    """The measurement and its cost, with ever smaller batches while memory runs out."""
    while True:
        try:
            with current().together(measure_.name):
                context = bench.context(measure_, watch, saved)
                cost = context.risk.cost.snapshot()
                reset_peak(bench.plan.device)
                measurement = measure_.compute(context)
                _check(measurement, measure_)
                if not all(math.isfinite(q.value) for q in measurement.quantities.values()):
                    raise_non_finite(context.risk)
                spent = partial(_spent, context.risk, cost, bench.plan.device)
                return measurement, current().from_first(spent)
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            bench.retreat(bench.plan.mode(measure_), error)


def _spent(risk: EmpiricalRisk, before: Cost, device: str) -> dict[str, Any]:
    """What was spent since then."""
    spent = risk.cost.gradient_equivalents - before.gradient_equivalents
    return {"gradient_equivalents": round(spent, 3), "peak_bytes": peak_bytes(device)}


def _check(measurement: Measurement, measure_: Measure) -> None:
    first = next(iter(measurement.quantities), None)
    if first != measure_.quantities[0]:
        raise FlatmeterError(
            f"{measure_.name} announces {measure_.quantities[0]!r} as its first quantity and "
            f"returned {first!r}",
            hint=f"set `quantities` of the class {type(measure_).__name__}",
        )


def blank_rows(subject: Subject | str, plan: Plan) -> list[Row]:
    """A row for each measure with everything but the numbers.

    Args:
        subject: the checkpoint, or only its name where it could not be read.
        plan: of the run.
    """
    if isinstance(subject, str):
        return [_unread(subject, plan, measure_) for measure_ in plan.measures]
    return [_blank(subject, plan, measure_) for measure_ in plan.measures]


def _blank(subject: Subject, plan: Plan, measure_: Measure) -> Row:
    mode = plan.mode(measure_)
    return Row(
        checkpoint=subject.name,
        sha256=subject.sha256,
        measure=measure_.name,
        quantity=measure_.quantities[0],
        definition=measure_.definition,
        n_data=len(subject.data),
        bn_mode=subject.bn_mode(mode),
        bn_batch=plan.bn_batch if subject.takes_batch_statistics(mode) else None,
        dtype=plan.dtype,
        device=plan.device,
        seed=plan.seed,
        key=key_of(plan.ingredients(subject, measure_)),
        protocol=key_of(plan.protocol(measure_)),
    )


def _failed(base: Row, error: Exception, measure_: Measure) -> Finished:
    """The row of a measure that does not apply or went wrong."""
    if isinstance(error, NotApplicable):
        return Finished([replace(base, status="n/a", message=one_line(error))])
    if isinstance(error, FlatmeterError):
        row = replace(base, status="error", message=one_line(error))
        return Finished([row], code=error.exit_code)
    message = f"a bug in {measure_.name}: {type(error).__name__}: {error}"
    return Finished(
        [replace(base, status="error", message=message)],
        code=ExitCode.INTERNAL,
        trace=traceback.format_exc(),
    )


def failed_rows(blank: Iterable[Row], error: FlatmeterError) -> list[Row]:
    """Rows of measures that cannot be taken, and why."""
    return [replace(row, status="error", message=one_line(error)) for row in blank]


def _unread(name: str, plan: Plan, measure_: Measure) -> Row:
    return Row(
        checkpoint=name,
        sha256="",
        measure=measure_.name,
        quantity=measure_.quantities[0],
        definition=measure_.definition,
        dtype=plan.dtype,
        device=plan.device,
        seed=plan.seed,
        protocol=key_of(plan.protocol(measure_)),
    )


def one_line(error: FlatmeterError) -> str:
    """What happened and what to do next, on one line; longer advice is told on stderr only."""
    text = f"{error.where}: {error.message}" if error.where else error.message
    text = "; ".join(text.split("\n"))
    return f"{text}; {error.hint}" if error.hint and "\n" not in error.hint else text
