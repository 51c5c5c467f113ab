"""``flatmeter compare``, on rows written by hand: nothing is measured."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from flatmeter.results.record import Row
from flatmeter.results.store import Store

VALUES = (4.0, 1.0, 3.0, 2.0, 6.0)
ACCURACIES = (0.5, 0.9, 0.6, 0.8, 0.6)
GAPS = (0.4, 0.1, 0.2, 0.3, 0.5)


def row(number, value, **more):
    base = Row(f"run/e{number}.pt", f"sha {number}", "trace", "value", 1, key=f"key {number}")
    ends = {"ci_low": value - 0.6, "ci_high": value + 0.6, "confidence": 0.95, "stderr": 0.3}
    return replace(base, value=value, accuracy=ACCURACIES[number - 1], **{**ends, **more})


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """``out`` with five checkpoints, ``side.csv`` with their gaps."""
    monkeypatch.chdir(tmp_path)
    with Store(tmp_path / "out") as store:
        for number, value in enumerate(VALUES, start=1):
            store.append([row(number, value)])
    lines = [f"e{n}.pt,{gap},{'xy'[n > 3]}" for n, gap in enumerate(GAPS, start=1)]
    Path("side.csv").write_text("\n".join(["name,gap,kind", *lines]) + "\n")


def document(flatmeter, *arguments):
    code, out, err = flatmeter("compare", "out", *arguments, "-f", "json")
    assert code == 0, err
    return json.loads(out)


def test_ranking_with_what_cannot_be_told_apart(flatmeter):
    code, out, err = flatmeter("compare", "out")
    assert (code, err) == (0, "")
    assert out == (
        "trace in run/, smallest first\n"
        "rank  checkpoint      value  overlap\n"
        "────────────────────────────────────\n"
        "1–2   e2.pt       1.0 ± 0.6        a\n"
        "1–3   e4.pt       2.0 ± 0.6      a b\n"
        "2–4   e3.pt       3.0 ± 0.6      b c\n"
        "3–4   e1.pt       4.0 ± 0.6        c\n"
        "5     e5.pt       6.0 ± 0.6\n"
        "± is half the 95 % interval; without ±, the error is below the last digit\n"
        "checkpoints with a letter in common have overlapping intervals: their order is\n"
        "    uncertain\n"
    )


def test_many_that_overlap_have_ranges_and_no_letters(flatmeter, tmp_path):
    with Store(tmp_path / "many") as store:
        rows = [row(1, float(n), checkpoint=f"{n}.pt", key=f"many {n}") for n in range(40)]
        store.copy([[replace(one, sha256=one.checkpoint)] for one in rows])
    _, out, _ = flatmeter("compare", "many")
    assert "overlap\n" not in out
    assert "39–40  39.pt       39.0 ± 0.6\n" in out
    assert "ranks are ranges where intervals overlap; -f json tells which\n" in out


def test_what_has_no_value_is_named_with_its_reason(flatmeter, tmp_path):
    with Store(tmp_path / "lost") as store:
        for name in ("a.pt", "b.pt"):
            lost = replace(row(1, 0.0), value=None, status="n/a", message="no meaning here")
            store.append([replace(lost, checkpoint=name, sha256=name, key=name)])
    code, out, _ = flatmeter("compare", "out", "lost")
    assert code == 0
    assert "left out: a.pt, b.pt: no meaning here\n" in out


def test_correlation_with_a_csv_is_that_of_scipy(flatmeter):
    arguments = ("--with", "side.csv", "--column", "gap", "--by", "kind")
    found = document(flatmeter, *arguments)["correlations"]
    assert [(c["group"], c["n"]) for c in found] == [(None, 5), ("x", 3), ("y", 2)]
    for one, stop in zip(found[:2], (5, 3), strict=True):
        pair = VALUES[:stop], GAPS[:stop]
        assert one["spearman"] == pytest.approx(stats.spearmanr(*pair).statistic)
        assert one["kendall"] == pytest.approx(stats.kendalltau(*pair).statistic)
    assert found[0]["kendall_low"] < found[0]["kendall"] < found[0]["kendall_high"]
    assert found[1]["kendall_low"] is None
    assert found[1]["message"] == "no interval: all samples have the same order"
    assert found[2]["spearman"] is None
    assert found[2]["message"] == "3 checkpoints or more are needed"
    assert document(flatmeter, *arguments)["correlations"] == found
    assert document(flatmeter, *arguments, "--seed", 1)["correlations"] != found


def test_correlation_with_a_column_of_the_rows(flatmeter):
    (found,) = document(flatmeter, "--column", "accuracy")["correlations"]
    assert found["kendall"] == pytest.approx(stats.kendalltau(VALUES, ACCURACIES).statistic)


def test_csv_and_markdown(flatmeter):
    arguments = ("compare", "out", "--column", "accuracy", "-f")
    lines = list(csv.DictReader(io.StringIO(flatmeter(*arguments, "csv")[1])))
    assert [line["table"] for line in lines] == ["ranking"] * 5 + ["correlation"]
    assert [line["rank"] for line in lines[:5]] == list("12345")
    assert lines[1]["groups"] == "a b"
    assert float(lines[5]["spearman"]) < 0
    assert "| 1–2 | e2.pt | 1.0 ± 0.6 | a |" in flatmeter(*arguments, "md")[1]


def test_a_constant_column_is_undefined_and_says_so(flatmeter):
    code, out, err = flatmeter("compare", "out", "--column", "definition")
    assert code == 1
    assert "undefined: the column has the same value everywhere" in err
    assert "nan" not in out


def test_checkpoints_without_a_line_and_lines_without_a_checkpoint(flatmeter):
    Path("side.csv").write_text("name,gap\ne1.pt,1\ne2.pt,2\nother.pt,3\n")
    code, out, err = flatmeter("compare", "out", "--with", "side.csv", "--column", "gap")
    assert code == 1
    assert "side.csv: 1 checkpoint in no folder: other.pt\n" in err
    assert "side.csv: 3 checkpoints not in the CSV, and left out of correlations: run/e3.pt" in err
    assert "no correlation: 3 checkpoints or more are needed" in err
    assert "– [1]" in out


def test_contradictions_are_left_out(flatmeter, tmp_path):
    with Store(tmp_path / "other") as store:
        store.append([row(1, 9.0)])
    code, out, err = flatmeter("compare", "out", "other")
    assert code == 1
    assert "run/e1.pt: trace: different numbers: value is 4 [3.4, 4.6] in out/results.jsonl" in err
    assert "e1.pt" not in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["none"], "none: no such folder"),
        (["out", "-f", "latex"], "a comparison cannot be written as 'latex'"),
        (["out", "--columns", "trcae"], "did you mean trace?"),
        (["out", "--columns", "accuracy"], "accuracy is no measure"),
        (["out", "--column", "acuracy"], "did you mean accuracy?"),
        (["out", "--column", "dtype"], "--column: dtype is 'float32'"),
        (["out", "--with", "side.csv"], "--with needs a column"),
        (["out", "--by", "kind"], "--by needs a column"),
        (["out", "--with", "side.csv", "--column", "kind"], "side.csv:2: kind is 'x'"),
        (["out", "--with", "none.csv", "--column", "kind"], "none.csv: cannot read it"),
    ],
)
def test_mistakes(flatmeter, tmp_path, arguments, text):
    with Store(tmp_path / "out") as store:
        store.append([row(5, 7.0, key="key 5", dtype="float32")])
    code, out, err = flatmeter("compare", *arguments)
    assert (code, out) == (2, "")
    assert text in err
