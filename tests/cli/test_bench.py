"""``flatmeter bench``, and the strategy that is named by hand."""

from __future__ import annotations

import json
import re

import pytest


def test_costs_for_people(flatmeter, checkpoint):
    code, out, err = flatmeter("bench", checkpoint, "-M", "gradient_norm,hessian_trace")
    assert (code, err) == (0, "")
    assert "a.pt: 43 parameters in 4 tensors, 24 samples" in out
    for kind in ("Hessian", "Gauss-Newton"):
        for k in (1, 4, 16, 64):
            line = rf"^  {kind} +{k} +[\d.]+ +[\d.e-]+ s +(reverse|forward)(-batched)?$"
            assert re.search(line, out, re.MULTILINE), (kind, k)
    assert "micro-batches of 24 samples, graphs of products kept" in out
    assert re.search(r"^ +gradient_norm +1 ", out, re.MULTILINE)
    assert all(len(line) <= 80 for line in out.splitlines()[1:])


def test_costs_for_programs(flatmeter, checkpoint):
    arguments = ("-M", "gradient_norm", "-f", "json", "--strategy", "forward", "-b", "7")
    code, out, _ = flatmeter("bench", checkpoint, *arguments)
    (entry,) = json.loads(out)["checkpoints"]
    assert code == 0
    assert [p["vectors"] for p in entry["products"]] == [1, 4, 16, 64] * 2
    assert {p["strategy"] for p in entry["products"]} == {"forward"}
    assert all(p["seconds"] > 0 and p["gradients"] > 0 for p in entry["products"])
    assert entry["memory"]["batch_size"] == 7
    assert not entry["memory"]["graphs_kept"]
    assert entry["measures"]["gradient_norm"]["gradients"] == [1.0, 1.0]


def test_a_form_that_there_is_not(flatmeter, checkpoint):
    code, out, err = flatmeter("bench", checkpoint, "-f", "csv")
    assert (code, out) == (2, "")
    assert "bench prints a table or json, not csv" in err


def test_a_checkpoint_that_is_none(flatmeter, checkpoint, tmp_path):
    (tmp_path / "bad.pt").write_text("nothing")
    code, out, err = flatmeter("bench", checkpoint, "bad.pt", "-M", "gradient_norm", "-f", "json")
    assert code == 1
    assert len(json.loads(out)["checkpoints"]) == 1
    assert "bad.pt" in err


@pytest.mark.parametrize("strategy", ["forward", "reverse-batched"])
def test_a_strategy_changes_no_number_and_no_key(flatmeter, checkpoint, strategy):
    rows = []
    for name in ("reverse", strategy):
        code, out, _ = flatmeter(
            *("measure", checkpoint, "-M", "hessian_eigenvalues", "-f", "json", "-q"),
            *("--strategy", name, "--dtype", "float64"),
        )
        assert code == 0
        rows.append(json.loads(out)["rows"][0])
    assert rows[1]["value"] == pytest.approx(rows[0]["value"], rel=1e-9)
    assert rows[1]["key"] == rows[0]["key"]


def test_a_strategy_that_there_is_not(flatmeter, checkpoint):
    code, _, err = flatmeter("measure", checkpoint, "--strategy", "backward")
    assert code == 2
    assert "reverse-batched" in err


def test_the_plan_names_the_strategy(flatmeter, checkpoint):
    _, out, _ = flatmeter(
        *("measure", checkpoint, "-M", "gradient_norm", "--dry-run"), *("--strategy", "forward")
    )
    assert re.search(r"curvature product [\d.e-]+ s \(forward\)", out)
