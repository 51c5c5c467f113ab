"""``flatmeter symmetries``: what it prints, writes and refuses."""

from __future__ import annotations

import csv
import io
import json

import pytest
import torch
from safetensors.torch import save_file

TABLE = """\
a.pt: 1 independent symmetry of 4 tensors

#  kind            what moves
────────────────────────────────────────────────────────────────────────────────
1  between layers  linear0 up; head.weight down

kinds        1 between layers
exact        all
verified     outputs change by {error}, relatively, under random elements
channels     5 independent scales; 0 scale-invariant blocks
inputs       4 of {data} of shape [4]
"""


def test_the_table(flatmeter, checkpoint, tmp_path):
    code, out, err = flatmeter("symmetries", checkpoint)
    error = out.split("change by ")[1].partition(",")[0]
    assert (code, err) == (0, "")
    assert float(error) < 1e-14
    head, _, inputs = TABLE.format(error=error, data=tmp_path / "data.npz").rpartition("inputs")
    assert out.startswith(head)
    assert "data.npz" in "".join(out[len(head) :].split()), inputs


def test_json_and_csv_for_scripts(flatmeter, checkpoint):
    code, out, err = flatmeter("symmetries", checkpoint, "-f", "json", "--export", "a.csv")
    document = json.loads(out)
    (entry,) = document["checkpoints"]
    moves = {"linear0.weight": 1, "linear0.bias": 1, "head.weight": -1}
    assert (code, err, document["schema_version"]) == (0, "", 1)
    assert entry["symmetries"] == [
        {
            "words": "linear0.weight, linear0.bias up; head.weight down",
            "kind": "between layers",
            "exact": True,
            "moves": moves,
        }
    ]
    assert (entry["dim"], entry["channel_dim"], entry["scale_invariant_blocks"]) == (1, 5, 0)
    assert (entry["kinds"], entry["unknown_operators"]) == ({"between layers": 1}, {})
    assert entry["error"] < 1e-14
    rows = list(csv.DictReader(io.StringIO(checkpoint.with_name("a.csv").read_text())))
    assert {row["tensor"]: int(row["steps"]) for row in rows} == moves
    assert {(r["checkpoint"], r["number"], r["exact"]) for r in rows} == {("a.pt", "1", "true")}
    _, out, _ = flatmeter("symmetries", checkpoint, "-f", "jsonl")
    assert json.loads(out) == entry


def test_a_network_alone_by_either_statistics(flatmeter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = ("--model", "zoo:cnn", "--model-arg", "norm=batch", "--input-shape", "1x9x9")
    code, out, err = flatmeter("symmetries", *network, "--bn", "batch")
    assert (code, err) == (0, "")
    assert "batch-norm by the statistics" in out
    assert "scale-invariant      conv0.weight alone (up to eps)\n" in out
    assert "bias without effect  conv0.bias alone\n" in out
    assert "4 random ones of shape [1, 9, 9]" in out
    assert "only up to the eps of normalisations" in out
    assert all(len(line) <= 80 for line in out.splitlines())
    stored = flatmeter("symmetries", *network)[1]
    assert "zoo:cnn: 2 independent symmetries of 10 tensors, batch-norm by stored" in stored
    assert flatmeter("symmetries", *network, "--bn", "batch")[1] == out


def test_data_that_cannot_be_had_are_replaced_unless_they_were_asked_for(flatmeter, checkpoint):
    checkpoint.with_name("data.npz").unlink()
    code, out, err = flatmeter("symmetries", checkpoint)
    assert code == 0
    assert err.startswith("note: a.pt: random inputs are used, since its data cannot be had:")
    assert "4 random ones of shape [4]" in out
    code, out, err = flatmeter("symmetries", checkpoint, "--data", "data.npz")
    assert (code, out) == (2, "")
    assert "data.npz" in err


def test_one_that_fails_does_not_stop_the_others(flatmeter, checkpoint):
    checkpoint.with_name("b.pt").write_bytes(b"no checkpoint")
    code, out, err = flatmeter("symmetries", "b.pt", checkpoint)
    assert code == 1
    assert "flatmeter: error: b.pt: " in err
    assert out.startswith("a.pt: 1 independent")
    assert flatmeter("symmetries", "b.pt")[0] == 3


def test_a_random_element_and_the_least_sum_of_squares(flatmeter, checkpoint):
    code, out, err = flatmeter("symmetries", checkpoint, "--transform", "b.pt", "--size", 3)
    assert (code, err) == (0, "")
    assert "moved        whole tensors, by powers of two up to 2^3 of seed 0\n" in out
    assert "wrote        b.pt\n" in out
    old, new = (torch.load(checkpoint.with_name(f"{n}.pt"))["state_dict"] for n in "ab")
    exponent = torch.log2(new["linear0.weight"] / old["linear0.weight"]).unique()
    assert 1 <= abs(exponent.item()) <= 3
    code, out, _ = flatmeter(
        *("symmetries", "b.pt", "--transform", "c.pt", "--scale", "balanced"),
        *("--granularity", "channel", "-f", "json"),
    )
    moved = json.loads(out)["checkpoints"][0]["transform"]
    assert code == 0
    assert moved["attained"]
    assert moved["slope"] < 1e-9
    assert moved["sum_of_squares"][1] < moved["sum_of_squares"][0]
    assert moved["change"] < 1e-12 < moved["stored_change"] < 1e-5
    inner = torch.load(checkpoint.with_name("c.pt"))["state_dict"]
    outer = inner["head.weight"].square().sum(0)
    own = inner["linear0.weight"].square().sum(1) + inner["linear0.bias"].square()
    torch.testing.assert_close(own, outer, rtol=1e-4, atol=0)


def test_seeds_can_be_named_in_two_ways(flatmeter, checkpoint):
    for name, flags in {
        "b.pt": ("--scale", "7"),
        "c.pt": ("--seed", "7", "--scale", "seed"),
    }.items():
        code, out, _ = flatmeter("symmetries", checkpoint, "--transform", name, *flags)
        assert code == 0
        assert "of seed 7\n" in out
    b, c = (
        torch.load(checkpoint.with_name(n))["state_dict"]["head.weight"] for n in ("b.pt", "c.pt")
    )
    assert torch.equal(b, c)


def test_measures_read_what_was_written(flatmeter, checkpoint):
    assert flatmeter("symmetries", checkpoint, "--transform", "b.safetensors")[0] == 0
    assert flatmeter("symmetries", checkpoint, "--transform", "c.pt", "--scale", "balanced")[0] == 0
    names = ("minimum_sharpness", "hessian_trace")
    code, out, err = flatmeter(
        *("measure", checkpoint, "b.safetensors", "c.pt", "-M", ",".join(names)),
        *("-f", "json", "--dtype", "float64", "-q"),
    )
    assert (code, err) == (0, "")
    values = {(r["checkpoint"], r["measure"]): r["value"] for r in json.loads(out)["rows"]}
    for name in ("b.safetensors", "c.pt"):
        same, other = (values[name, m] / values["a.pt", m] for m in names)
        assert same == pytest.approx(1, rel=1e-5)
        assert other != pytest.approx(1, rel=1e-3)


def test_a_bare_state_dict_in_safetensors(flatmeter, checkpoint):
    state = torch.load(checkpoint)["state_dict"]
    save_file(state, checkpoint.with_name("bare.safetensors"))
    network = ("--model", "net.py:build")
    code, out, _ = flatmeter("symmetries", "bare.safetensors", *network, "--transform", "b.pt")
    assert code == 0
    assert "random ones" in out
    assert torch.load(checkpoint.with_name("b.pt")).keys() == state.keys()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no checkpoint is named"),
        (("a.pt", "-f", "latex"), "symmetries cannot be written as 'latex'"),
        (("a.pt", "--export", "a.html"), "--export: symmetries cannot be written as 'html'"),
        (("a.pt", "--input-shape", "3,-1"), "'3,-1' is no shape"),
        (("a.pt", "--input-shape", "5"), "on inputs of shape [5] it fails: mat1 and mat2"),
        (("a.pt", "--scale", "balanced"), "--scale: it says how an equivalent checkpoint"),
        (("a.pt", "--force"), "--force: it says how an equivalent checkpoint is written"),
        (("a.pt", "--transform", "b.pt", "--scale", "-1"), "write seed, the number of a seed"),
        (("a.pt", "--transform", "b.pt", "--size", "0"), "0 is not in the range"),
        (("a.pt", "--transform", "b.pt", "--scale", "balanced", "--size", "2"), "--size: it"),
        (("a.pt", "--transform", "a.pt", "--force"), "it is the checkpoint itself"),
        (("a.pt", "--transform", "data.npz"), "data.npz: it exists already"),
        (("a.pt", "--transform", "nowhere/b.pt"), "there is no such folder"),
        (("a.pt", "a.pt", "data.npz", "--transform", "b.pt"), "at a time, not 2"),
        (("-m", "zoo:mlp", "--transform", "b.pt"), "not a network without one"),
        (("-m", "zoo:mpl",), "did you mean zoo:mlp"),
    ],
)  # fmt: skip
def test_what_is_refused(flatmeter, checkpoint, arguments, said):
    before = sorted(p.name for p in checkpoint.absolute().parent.iterdir())
    code, out, err = flatmeter("symmetries", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert sorted(p.name for p in checkpoint.absolute().parent.iterdir()) == before


def test_an_older_file_is_written_over_by_force_alone(flatmeter, checkpoint):
    target = checkpoint.with_name("b.pt")
    target.write_text("mine")
    assert flatmeter("symmetries", checkpoint, "--transform", "b.pt")[0] == 2
    assert target.read_text() == "mine"
    assert flatmeter("symmetries", checkpoint, "--transform", "b.pt", "--force")[0] == 0
    assert "state_dict" in torch.load(target)


def test_a_change_beyond_the_tolerance_writes_nothing(
    flatmeter, tmp_path, monkeypatch, make_checkpoint
):
    monkeypatch.chdir(tmp_path)
    make_checkpoint(tmp_path, bn=True)
    arguments = ("symmetries", "a.pt", "--bn", "batch", "--transform", "b.pt", "--size", 9)
    code, out, err = flatmeter(*arguments, "--tolerance", 1e-9)
    assert (code, out) == (1, "")
    assert "nothing is written" in err
    assert "--tolerance" in err
    assert not (tmp_path / "b.pt").exists()
    code, out, _ = flatmeter(*arguments, "--tolerance", 2.0)
    assert code == 0
    assert "with running" in out
