import csv
import io
import json
from dataclasses import replace

import pytest

from flatmeter.errors import UsageError
from flatmeter.estimate import Why
from flatmeter.results.atomic import OutputError
from flatmeter.results.collection import Results
from flatmeter.results.exporters import render
from flatmeter.results.pivot import pivot, sort_rows
from flatmeter.results.plain_text import ascii_grid, to_ascii
from flatmeter.results.record import COLUMNS, Row
from flatmeter.results.table import render_parts, render_text

OK = Why.INTERVAL.value


def _row(checkpoint, measure="trace_of_things", value=1.5, half=0.0, **more):
    defaults = {
        "sha256": "00",
        "quantity": "value",
        "definition": 1,
        "value": value,
        "ci_low": None if value is None else value - half,
        "ci_high": None if value is None else value + half,
        "confidence": 0.95,
        "n_data": 100,
        "loss": 0.25,
        "accuracy": 0.875,
        "why": OK,
        "converged": True,
        "seconds": 1.0,
    }
    return Row(checkpoint=checkpoint, measure=measure, **{**defaults, **more})


ROWS = [
    _row("runs/b.pt", value=2.0, half=0.1),
    _row("runs/b.pt", "spheres", None, status="n/a", message="no block is scale-invariant"),
    _row("runs/a.pt", value=1.0, half=0.2, status="unconverged", why="the budget ran out"),
    _row("runs/a.pt", "spheres", 7.0, bn_mode="batch", quantity="block"),
    _row("runs/a.pt", "spheres", 9.0, bn_mode="batch", quantity="raw"),
    _row("runs/a.pt", "spheres", 3.0, quantity="trace", scope="layer one"),
]

TABLE = """\
in runs/

                                          trace_   spheres
                                             of_    .block
checkpoint    loss  accuracy    N         things  bn batch
──────────────────────────────────────────────────────────
b.pt        0.2500    87.5 %  100      2.0 ± 0.1   n/a [1]
a.pt        0.2500    87.5 %  100  1.0 ± 0.2 [2]     7.000

[1] spheres: no block is scale-invariant (b.pt)
[2] trace_of_things: did not converge: the budget ran out (a.pt)
± is half the 95 % interval; without ±, the error is below the last digit
"""


def test_golden_table():
    assert render_text(pivot(ROWS), width=80) == TABLE


def test_every_line_fits_and_nothing_is_cut():
    rows = [
        _row(f"runs/{'long' * 12}-{i}.pt", f"measure_number_{j}", 12345.6, 321.0)
        for i in range(3)
        for j in range(12)
    ]
    text = render_text(pivot(rows), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert text.count("12300 ± 300") == 36


def test_reasons_are_footnotes():
    text = render_text(pivot(ROWS), width=80)
    assert "n/a [1]" in text
    assert "[1] spheres: no block is scale-invariant (b.pt)" in text
    assert "[2] trace_of_things: did not converge: the budget ran out (a.pt)" in text
    assert "± is half the 95 % interval" in text


def test_what_did_not_converge_is_named_though_it_is_not_shown():
    lost = {"status": "unconverged", "why": "the budget ran out"}
    rows = [_row("a.pt", "ends", quantity="upper")]
    rows += [_row("a.pt", "ends", quantity=name, **lost) for name in ("lower", "lower_2")]
    text = render_text(pivot(rows), width=80)
    assert "ends: lower, lower_2 did not converge: the budget ran out" in text
    several = [_row("a.pt", "ends", quantity=f"v{i}", **lost) for i in range(9)]
    text = render_text(pivot(rows[:1] + several), width=80)
    assert "ends: v0, v1, v2 and 6 more did not converge: the budget ran out" in text
    assert "did not converge" not in render_text(pivot(rows[:1]), width=80)


def test_rounding_that_shows_is_told():
    rows = [_row("a.pt", dtype="bfloat16", rounding=0.0298), _row("b.pt", rounding=6e-6)]
    said = "computed in bfloat16: curvature products were off by up to 3 %"
    assert said in render_text(pivot(rows), width=80)
    assert "computed in" not in render_text(pivot(rows[1:]), width=80)
    assert "off by up to 0.0006 %" in render_text(pivot(rows[1:], digits=6), width=80)


def test_quantities_and_fields_as_columns():
    grid = pivot(ROWS, columns=["spheres.raw", "seconds"])
    assert [c.name for c in grid.columns] == ["spheres.raw", "seconds"]
    assert grid.lines == (("b.pt", ("n/a [1]", "2.0")), ("a.pt", ("9.000", "2.0")))


def test_unknown_column_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean spheres"):
        Results(ROWS).table(columns=["sphere"])


def test_what_a_run_did_not_reach_is_an_empty_column():
    grid = pivot(ROWS, columns=["later", "loss"])
    assert {cells[0] for _, cells in grid.lines} == {""}
    assert sort_rows(ROWS, "-later") == list(ROWS)


def test_sorting_either_way_with_missing_values_last():
    assert next(r.checkpoint for r in sort_rows(ROWS, "trace_of_things")) == "runs/a.pt"
    assert next(r.checkpoint for r in sort_rows(ROWS, "-trace_of_things")) == "runs/b.pt"
    assert next(r.checkpoint for r in sort_rows(ROWS, "-spheres")) == "runs/a.pt"


def test_ascii_spells_out_what_it_can():
    assert to_ascii("1 ± 2 ≥ λ ☃") == "1 +/- 2 >= lambda ?"
    assert to_ascii("δ = ε, Σ") == "delta = epsilon, sigma"
    text = render_text(ascii_grid(pivot(ROWS)), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert to_ascii(text).replace("-", "") == text.replace("─", "").replace("-", "")


def test_layers_have_a_table_of_their_own():
    text = render_parts(ROWS)
    assert "spheres of runs/a.pt" in text
    assert "layer one" in text


def test_json_is_the_documented_document():
    document = json.loads(render("json", ROWS, {"seed": 1}))
    assert document["schema_version"] == 1
    assert document["run"] == {"seed": 1}
    assert tuple(document["rows"][0]) == COLUMNS
    assert document["rows"][1]["value"] is None


def test_csv_and_jsonl_have_every_row():
    lines = list(csv.DictReader(io.StringIO(render("csv", ROWS, {}))))
    assert tuple(lines[0]) == COLUMNS
    assert lines[1]["value"] == ""
    assert {x["exact"] for x in lines} | {x["converged"] for x in lines} == {"true", "false"}
    assert [float(x["value"]) for x in lines[2:]] == [1.0, 7.0, 9.0, 3.0]
    assert [json.loads(x)["measure"] for x in render("jsonl", ROWS, {}).splitlines()][
        1
    ] == "spheres"


def test_html_is_a_page():
    lines = render("html", ROWS, {}).splitlines()
    assert lines[0] == "<!doctype html>"
    assert "<title>flatmeter</title>" in lines
    assert lines[-1] == "</html>"


def test_markup_is_escaped():
    rows = [replace(ROWS[0], checkpoint="a|b_<c>.pt")]
    assert r"a\|b_<c>.pt" in render("md", rows, {})
    assert r"a|b\_<c>.pt" in render("tex", rows, {})
    assert "a|b_&lt;c&gt;.pt" in render("html", rows, {})
    assert "trace_of_things" in render("md", rows, {}).splitlines()[0]


def test_export_is_atomic_and_knows_endings(tmp_path):
    results = Results(ROWS)
    for ending in ("csv", "json", "jsonl", "md", "tex", "html"):
        assert results.export(tmp_path / f"out.{ending}").stat().st_size > 50
    assert len(list(tmp_path.iterdir())) == 6
    with pytest.raises(UsageError, match="xlsx"):
        results.export(tmp_path / "out.xlsx")
    with pytest.raises(OutputError):
        results.export(tmp_path / "missing" / "out.csv")


def test_values_by_name():
    results = Results(ROWS)
    assert results.value("spheres", checkpoint="runs/a.pt") == 7.0
    assert results.value("spheres", "raw", checkpoint="runs/a.pt") == 9.0
    assert results.value("spheres", scope="layer one") == 3.0
    assert len(results) == 6
    with pytest.raises(UsageError, match="several checkpoints"):
        results.value("spheres")
    with pytest.raises(UsageError, match="no value"):
        results.value("spheres", checkpoint="runs/b.pt")
    with pytest.raises(UsageError, match="no result"):
        results.value("cubes")


def test_what_all_measures_failed_of_is_said_once():
    lost = [
        _row("a.pt", name, None, status="error", message="w holds values that are not finite")
        for name in ("trace_of_things", "spheres")
    ]
    good = [_row("b.pt"), _row("b.pt", "spheres", None, status="error", message="a bug")]
    assert pivot([*lost, *good]).footnotes == (
        "[1] w holds values that are not finite (a.pt)",
        "[2] spheres: a bug (b.pt)",
    )
    assert pivot(lost[:1]).footnotes == ("[1] trace_of_things: w holds values that are not finite",)


def test_names_that_look_like_markup_stay_as_they_are():
    rows = [_row(name) for name in ("x[bold]y.pt", "a:smile:b.pt", "end[/x].pt")]
    text = render_text(pivot(rows), width=80)
    for name in ("x[bold]y.pt", "a:smile:b.pt", "end[/x].pt"):
        assert name in text


def test_a_sample_of_the_data_is_told_and_its_error_in_the_notes():
    rows = [_row("a.pt", stderr_data=0.125), _row("b.pt", stderr_data=None)]
    assert any("a sample of the data" in note for note in pivot(rows).footnotes)
    assert any("of the data: 0.12" in note for note in pivot(rows, notes=True).footnotes)
    whole = pivot([_row("a.pt", stderr_data=0.0)], notes=True)
    assert not any("of the data" in note for note in whole.footnotes)
