import json
import math
from dataclasses import replace

import numpy as np
import pytest

from flatmeter.estimate import Estimate, Why
from flatmeter.measures.base import Measurement, Part
from flatmeter.results.record import COLUMNS, Row, rows_of

CONTRACT = [
    *("schema_version", "checkpoint", "sha256", "measure", "quantity", "definition", "scope"),
    *("value", "stderr", "ci_low", "ci_high", "confidence", "exact", "n_probes", "n_data"),
    *("loss", "accuracy", "bn_mode", "dtype", "device", "seed", "seconds", "peak_bytes"),
    *("gradient_equivalents", "converged", "status", "message"),
]

BASE = Row("a.pt", "00", "trace", "", 1, key="k", seconds=1.5)


def test_columns_hold_the_documented_ones_in_order():
    assert [c for c in COLUMNS if c in CONTRACT] == CONTRACT
    assert set(COLUMNS) - set(CONTRACT) == {
        "residual",
        "why",
        "bn_batch",
        "key",
        "stderr_data",
        "rounding",
        "protocol",
        "revision",
    }


def test_rows_are_headline_first_then_quantities_then_parts():
    measurement = Measurement(
        quantities={"value": Estimate.of_exact(2.0), "other": Estimate.of_exact(3.0)},
        parts=(Part("layer", "trace", Estimate.of_exact(1.0)),),
        notes=("mind the gap",),
    )
    rows = rows_of(measurement, BASE, 0.95)
    assert [(r.quantity, r.scope, r.value) for r in rows] == [
        ("value", "network", 2.0),
        ("other", "network", 3.0),
        ("trace", "layer", 1.0),
    ]
    assert [r.message for r in rows] == ["mind the gap", "", ""]
    assert all(r.exact and r.status == "ok" and r.seconds == 1.5 for r in rows)


def test_interval_is_students_t():
    estimate = Estimate(10.0, stderr=2.0, n=5, why=Why.INTERVAL)
    (row,) = rows_of(Measurement({"value": estimate}), BASE, 0.95)
    assert row.ci_low == pytest.approx(10 - 2.7764451051977987 * 2)
    assert row.half_width == pytest.approx(2.7764451051977987 * 2)


def test_unknown_error_is_null_and_not_infinite():
    estimate = Estimate(10.0, stderr=2.0, n=1, converged=False, why=Why.BUDGET)
    (row,) = rows_of(Measurement({"value": estimate}), BASE, 0.95)
    assert row.ci_low is None
    assert row.status == "unconverged"
    json.dumps(row.to_dict(), allow_nan=False)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_an_error_row(bad):
    (row,) = rows_of(Measurement({"value": Estimate(bad)}), BASE, 0.95)
    assert row.status == "error"
    assert row.value is None
    json.dumps(row.to_dict(), allow_nan=False)


def test_round_trip_ignores_columns_of_a_later_version():
    row = Row("a.pt", "00", "m", "value", 1, value=float(np.float64(0.1)))
    values = json.loads(json.dumps({**row.to_dict(), "column_of_the_future": 1}))
    assert Row.from_dict(values) == row


def test_the_error_from_a_sample_of_the_data_is_a_column_of_its_own():
    known, unknown = Estimate.of_exact(3.0).of_sample(0.5).scaled(-2.0), Estimate.of_exact(3.0)
    measurement = Measurement({"value": known, "other": unknown})
    rows = rows_of(measurement, BASE, 0.95)
    assert [row.stderr_data for row in rows] == [1.0, None]
    assert rows[0].ci_low == rows[0].ci_high == -6.0
    whole = rows_of(Measurement({"value": unknown}), replace(BASE, stderr_data=0.0), 0.95)
    assert whole[0].stderr_data == 0.0
    bad = rows_of(Measurement({"value": Estimate(math.nan)}), replace(BASE, stderr_data=0.0), 0.95)
    assert bad[0].stderr_data is None
