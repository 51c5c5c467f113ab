"""Checkpoints that hold more, or less, than one set of good weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from flatmeter.errors import OutOfMemory
from flatmeter.results.store import read_groups
from flatmeter.risk import appetite
from flatmeter.symmetry import solved

FLAGS = ("-M", "gradient_norm", "-f", "json", "-q")


def test_averaged_weights_are_another_measurement(flatmeter, checkpoint):
    content = torch.load(checkpoint)
    plain = content["state_dict"]
    content["state_dict_ema"] = {name: tensor / 2 for name, tensor in plain.items()}
    torch.save(content, checkpoint)

    def row(*flags):
        code, out, err = flatmeter("measure", checkpoint, *FLAGS, *flags)
        assert (code, err) == (0, "")
        return json.loads(out)["rows"][0]

    own, averaged = row(), row("--ema")
    assert own["value"] != averaged["value"]
    assert own["key"] != averaged["key"]
    assert averaged["key"] == row("--key", "state_dict_ema")["key"]


def test_averaged_weights_that_are_not_there(flatmeter, checkpoint):
    code, _, err = flatmeter("measure", checkpoint, *FLAGS, "--ema")
    assert code == 2
    assert err == (
        "flatmeter: error: a.pt: no entry of it holds averaged weights; weights stand under: "
        "state_dict\nleave --ema out, or name one of these by --key\n"
    )


@pytest.fixture
def damaged(checkpoint):
    """The checkpoint with its weights changed, under another name."""

    def change(name, function):
        content = torch.load(checkpoint)
        function(content["state_dict"])
        torch.save(content, name)
        return name

    return change


def not_a_number(weights):
    weights["head.bias"][0] = float("nan")


def overflowing(weights):
    for tensor in weights.values():
        tensor *= 1e30


MEASURES = ("-M", "gradient_norm,hessian_trace")


def test_weights_that_are_not_finite_have_rows_and_stop_nothing(flatmeter, checkpoint, damaged):
    names = damaged("nan.pt", not_a_number), checkpoint, damaged("big.pt", overflowing)
    code, out, err = flatmeter("measure", *names, *MEASURES, "-f", "json")
    assert code == 1
    assert "flatmeter: error: nan.pt: the parameter head.bias holds values" in err
    rows = {(r["checkpoint"], r["measure"]): r for r in json.loads(out)["rows"]}
    assert len(rows) == 6
    for measure in ("gradient_norm", "hessian_trace"):
        assert rows["a.pt", measure]["status"] == "ok"
        lost, big = rows["nan.pt", measure], rows["big.pt", measure]
        assert (lost["status"], big["status"]) == ("error", "error")
        assert "the parameter head.bias" in lost["message"]
        assert "samples 0 to 23, first in layer 'head'" in big["message"]
        assert lost["sha256"]
        assert lost["n_data"] == 24


def test_a_table_where_nothing_is_finite(flatmeter, damaged):
    code, out, err = flatmeter("measure", damaged("nan.pt", not_a_number), *MEASURES)
    assert (code, "Traceback" in err) == (1, False)
    assert out.count("error [1]") == 2
    assert "[1] the parameter head.bias holds values that are not finite" in out
    assert "[2]" not in out


def test_what_is_not_finite_is_kept_in_the_folder(flatmeter, damaged):
    name = damaged("nan.pt", not_a_number)
    for _ in range(2):
        assert flatmeter("measure", name, *MEASURES, "-o", "out")[0] == 1
    groups = read_groups(Path("out"))
    assert [rows[0].status for rows in groups.values()] == ["error", "error"]


def test_a_later_failure_leaves_what_was_finished(flatmeter, checkpoint, monkeypatch):
    arguments = ("measure", checkpoint, "-o", "out", "-f", "json", "-q")
    assert flatmeter(*arguments, "-M", "gradient_norm")[0] == 0

    def fails(self):
        raise OutOfMemory("no room")

    monkeypatch.setattr("flatmeter.workbench.Workbench.prepare", fails)
    code, out, _ = flatmeter(*arguments, *MEASURES)
    assert code == 1
    assert [r["status"] for r in json.loads(out)["rows"]] == ["ok", "error"]
    statuses = {rows[0].measure: rows[0].status for rows in read_groups(Path("out")).values()}
    assert statuses == {"gradient_norm": "ok", "hessian_trace": "error"}


def test_what_a_file_says_cannot_steer_the_terminal(flatmeter, checkpoint):
    content = torch.load(checkpoint)
    content["state_dict"]["\x1b[2Jextra"] = 1
    torch.save(content, checkpoint)
    code, _, err = flatmeter("measure", checkpoint, "-M", "gradient_norm")
    assert code == 0, err
    assert "?[2Jextra" in err
    assert "\x1b" not in err
    content["flatmeter"]["model"] = "\x1b[2Jnets.py:build"
    torch.save(content, checkpoint)
    code, _, err = flatmeter("measure", checkpoint, "-M", "gradient_norm")
    assert (code, "?[2Jnets.py" in err, "\x1b" in err) == (2, True, False)


@pytest.mark.parametrize("bn", [False, True])
def test_many_checkpoints_have_the_numbers_of_each_alone(
    flatmeter, checkpoint, make_checkpoint, tmp_path, bn
):
    """What is found out once of an architecture changes nothing, symmetries among it."""
    for seed, name in enumerate(("a.pt", "b.pt", "c.pt")):
        path = make_checkpoint(tmp_path, name, seed=seed, bn=bn)
        if name == "b.pt":
            file = torch.load(path)
            file["state_dict"]["linear0.weight"].zero_()
            torch.save(file, path)
    command = ["measure", "-M", "minimum_sharpness", "-M", "gradient_norm", "-f", "jsonl"]
    command += ["--per-layer", "--strategy", "reverse", "--allow-unconverged"]
    numbers = []
    for name in ("a.pt", "b.pt", "c.pt"):
        solved._SOLVED.clear()
        appetite._MEASURED.clear()
        numbers.append(numbers_of(flatmeter(*command, name)[1]))
    together = numbers_of(flatmeter(*command, "a.pt", "b.pt", "c.pt")[1])
    assert together == [row for own in numbers for row in own]
    assert {row["status"] for row in together} <= {"ok", "unconverged", "n/a"}


def numbers_of(out):
    rows = [json.loads(line) for line in out.splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "peak_bytes")} for row in rows]
