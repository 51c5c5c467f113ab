"""One row of the results: a number with its error and everything it depends on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from flatmeter.estimate import Estimate
from flatmeter.measures.base import Measurement

SCHEMA_VERSION = 1
NETWORK = "network"

Status = Literal["ok", "unconverged", "n/a", "error"]


def finite(value: float | None) -> float | None:
    """The number, or ``None`` where it is infinite or not a number (JSON has neither)."""
    return None if value is None or not math.isfinite(value) else float(value)


@dataclass(frozen=True, slots=True)
class Row:
    """A number with its provenance; the field names are the columns of JSON, JSONL and CSV.

    Args:
        schema_version: of these columns.
        checkpoint: path or name of what was measured.
        sha256: of its weights.
        measure, quantity: what was measured.
        definition: version of the measure's definition.
        scope: ``network``, or the name of a layer or tensor.
        value: the number; ``None`` where there is none.
        stderr: standard error; 0 for a deterministic value.
        residual: bound on a deterministic error (Ritz residual, quadrature), where there is one.
        ci_low, ci_high: confidence interval; ``None`` where the error is unknown.
        confidence: coverage of that interval.
        exact: no sampling and no iteration error besides rounding.
        n_probes: number of probes, iterations or starts behind the value.
        n_data: number of samples.
        loss, accuracy: of the network on these data.
        bn_mode: how batch-norm was evaluated; ``None`` without batch-norm.
        bn_batch: samples per batch of statistics, where a batch-norm uses the batch's own.
        dtype, device, seed: of the run.
        seconds, peak_bytes, gradient_equivalents: what the measure cost (all its quantities).
        converged: the tolerance was met.
        why: how the estimate ended, in words.
        status: ``ok``, ``unconverged``, ``n/a`` or ``error``.
        message: the reason of a missing value, or what a reader of the number should know.
        key: identifies the measurement; equal keys mean an equal number (see ``results.key``).
        stderr_data: standard error from measuring on a random sample of the data; 0 where all were
            measured, ``None`` where it is unknown.
        rounding: relative error that the dtype adds to a curvature product, measured against
            float64 on a probe.
        protocol: identifies how it was measured, whatever the weights, network, data and accuracy:
            rows of one quantity with equal protocols can be compared.
        revision: how often it was measured anew (``--force``); the highest one counts.
    """

    checkpoint: str
    sha256: str
    measure: str
    quantity: str
    definition: int
    scope: str = NETWORK
    value: float | None = None
    stderr: float | None = None
    residual: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    confidence: float | None = None
    exact: bool = False
    n_probes: int = 0
    n_data: int | None = None
    loss: float | None = None
    accuracy: float | None = None
    bn_mode: str | None = None
    bn_batch: int | None = None
    dtype: str | None = None
    device: str | None = None
    seed: int | None = None
    seconds: float | None = None
    peak_bytes: int | None = None
    gradient_equivalents: float | None = None
    converged: bool = False
    why: str = ""
    status: Status = "ok"
    message: str = ""
    key: str = ""
    stderr_data: float | None = None
    rounding: float | None = None
    protocol: str = ""
    revision: int = 0
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """All columns in their documented order, ready for strict JSON."""
        return {name: getattr(self, name) for name in COLUMNS}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Row:
        """The row that :meth:`to_dict` wrote; columns of a later version are ignored.

        Raises:
            TypeError: a column without default is missing.
        """
        return cls(**{k: v for k, v in values.items() if k in _NAMES})

    @property
    def half_width(self) -> float | None:
        """Half the width of the confidence interval, ``None`` where it is unknown."""
        if self.value is None or self.ci_high is None:
            return None
        return self.ci_high - self.value


_NAMES = frozenset(f.name for f in fields(Row))

COLUMNS: tuple[str, ...] = (
    "schema_version",
    *(f.name for f in fields(Row) if f.name != "schema_version"),
)


def rows_of(measurement: Measurement, base: Row, confidence: float) -> list[Row]:
    """The rows of one measurement: its quantities, headline first, then its layers.

    Args:
        measurement: what the measure returned.
        base: a row with the provenance and cost filled in, and the error from measuring on a sample
            of the data where it is the same for all measures.
        confidence: coverage of the intervals.
    """
    rows = [
        _filled(replace(base, quantity=name), estimate, confidence)
        for name, estimate in measurement.quantities.items()
    ]
    rows[0] = _with_notes(rows[0], measurement.notes)
    rows += [
        _filled(replace(base, quantity=p.quantity, scope=p.scope), p.estimate, confidence)
        for p in measurement.parts
    ]
    return rows


def _with_notes(row: Row, notes: tuple[str, ...]) -> Row:
    """The headline row carries what the measure has to say."""
    return replace(row, message="; ".join([*filter(None, [row.message]), *notes]))


def _filled(base: Row, estimate: Estimate, confidence: float) -> Row:
    """``base`` with the numbers of an estimate."""
    if not math.isfinite(estimate.value):
        said = f"the value is {estimate.value}"
        return replace(base, status="error", message=said, stderr_data=None)
    low, high = estimate.interval(confidence)
    error = estimate.data_stderr
    return replace(
        base,
        value=float(estimate.value),
        stderr=finite(estimate.stderr),
        residual=finite(estimate.residual),
        ci_low=finite(low),
        ci_high=finite(high),
        confidence=confidence,
        stderr_data=base.stderr_data if error is None else finite(error),
        exact=estimate.exact,
        n_probes=estimate.n,
        converged=estimate.converged,
        why=estimate.why.value,
        status="ok" if estimate.converged else "unconverged",
    )
