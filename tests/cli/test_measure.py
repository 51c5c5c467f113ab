import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from flatmeter.results.store import read_groups


def _toy(toys, name):
    return f"{toys}:{name}"


def test_a_checkpoint_that_says_everything_needs_nothing_else(flatmeter, checkpoint, toys):
    code, out, err = flatmeter("measure", checkpoint, "-M", _toy(toys, "Norm"), "--progress=none")
    assert code == 0
    assert err == ""
    theta = torch.cat([t.reshape(-1) for t in torch.load(checkpoint)["state_dict"].values()])
    expected = float(theta.double().square().sum())
    lines = out.splitlines()
    assert lines[0].split() == ["checkpoint", "loss", "accuracy", "N", "norm"]
    assert lines[2].split()[0] == "a.pt"
    assert lines[2].split()[-1] == f"{expected:.3f}"


def test_json_document(flatmeter, checkpoint, toys):
    code, out, _ = flatmeter(
        "measure", checkpoint, "-M", _toy(toys, "Norm"), "-f", "json", "--seed", 3, "-q"
    )
    document = json.loads(out)
    assert code == 0
    assert document["run"]["settings"]["seed"] == 3
    assert next(iter(document["run"]["data"].values()))
    rows = document["rows"]
    assert [(r["measure"], r["quantity"]) for r in rows] == [("norm", "value"), ("norm", "dim")]
    assert rows[0]["n_data"] == 24
    assert rows[0]["loss"] > 0
    assert rows[0]["message"] == "a toy"
    assert rows[0]["bn_mode"] is None
    assert rows[1]["value"] == 43


def test_layers_are_added_when_asked_for(flatmeter, checkpoint, toys):
    arguments = ("measure", checkpoint, "-M", _toy(toys, "Norm"), "--per-layer", "-q")
    _, out, _ = flatmeter(*arguments, "-f", "jsonl")
    assert [json.loads(x)["scope"] for x in out.splitlines()] == ["network", "network", "first"]
    _, out, _ = flatmeter(*arguments)
    assert "layer or tensor   size" in out


@pytest.mark.parametrize("form", ["table", "csv", "md", "latex"])
def test_other_formats(flatmeter, checkpoint, toys, form):
    code, out, _ = flatmeter("measure", checkpoint, "-M", _toy(toys, "Norm"), "-f", form, "-q")
    assert code == 0
    assert "norm" in out
    assert "a.pt" in out


def test_options_of_measures(flatmeter, checkpoint, toys):
    arguments = ("measure", checkpoint, "-M", _toy(toys, "Norm"), "-f", "json", "-q")
    one = json.loads(flatmeter(*arguments, "--set", "norm.power=1e0")[1])["rows"][0]
    two = json.loads(flatmeter(*arguments)[1])["rows"][0]
    assert one["value"] != two["value"]
    assert one["key"] != two["key"]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--set", "norm.powr=1"], "norm has no option 'powr'\ndid you mean power?"),
        (["--set", "norm.power=much"], "norm.power cannot be 'much'"),
        (["--set", "power=1"], "is not MEASURE.OPTION=VALUE"),
        (["--set", "nrm.power=1"], "nrm"),
        (["-M", "gradient_nrm"], "gradient_norm"),
        (["--samples", "-3"], "--samples: samples cannot be '-3'"),
        (["--columns", "los"], "--columns: there is no column 'los'\ndid you mean loss?"),
        (["--sort", "lss"], "--sort: there is no column 'lss'\ndid you mean loss?"),
        (["--export", "data.npz/a.csv"], "a part of the path is a file, not a folder"),
        (["--export", "a.xlsx"], "csv, json, jsonl, md, tex, html"),
        (["--export", "no/where.csv"], "no/where.csv: cannot write: there is no such folder"),
        (["--device", "cuda:99"], "no device cuda:99"),
        (["--device", "tpu"], "--device: device cannot be 'tpu': it must be 'auto', 'cpu', 'cuda'"),
        (["--params", "nothing*"], "no parameter is named like 'nothing*'"),
        (["--model-arg", "width"], "is not NAME=VALUE"),
        (["--max-time", "soon"], "not a duration"),
        (["--rtoll", "1"], "error: no such option '--rtoll'\ndid you mean --rtol?"),
        (["-o"], "error: option '-o' requires an argument\nsee: flatmeter"),
        (["--bn", "train"], "--bn: bn cannot be 'train': it must be 'eval' or 'batch'"),
        (["-f", "tabel"], "or 'latex'\ndid you mean table?"),
        (
            ["--set", "minimum_sharpness.granularity=neurn"],
            "granularity cannot be 'neurn': it must be 'layer' or 'neuron'\ndid you mean neuron?",
        ),
    ],
)
def test_mistakes_on_the_command_line(flatmeter, checkpoint, toys, flags, text):
    code, out, err = flatmeter("measure", checkpoint, "-M", _toy(toys, "Norm"), *flags)
    assert code == 2
    assert out == ""
    assert text in err
    assert "Traceback" not in err


def test_a_value_that_did_not_converge(flatmeter, checkpoint, toys):
    arguments = ("measure", checkpoint, "-M", _toy(toys, "Unconverged"), "-q")
    code, out, _ = flatmeter(*arguments)
    assert code == 6
    assert "1 ± 2 [1]" in out
    assert "[1] unconverged: did not converge: the budget ran out" in out
    assert flatmeter(*arguments, "--allow-unconverged")[0] == 0


def test_verbose_tells_what_every_measure_cost(flatmeter, checkpoint):
    code, _, err = flatmeter("measure", checkpoint, "-M", "gradient_norm,hessian_eigenvalues", "-v")
    assert code == 0
    assert re.search(r"gradient_norm: ok, [\d.]+ s, 1 gradient$", err, re.MULTILINE)
    assert re.search(r"hessian_eigenvalues: ok, [\d.]+ s, \d+ gradients$", err, re.MULTILINE)


def test_a_measure_that_does_not_apply_is_no_failure(flatmeter, checkpoint, toys):
    code, out, err = flatmeter("measure", checkpoint, "-M", _toy(toys, "Refusing"), "-q")
    assert code == 0
    assert err == ""
    assert "[1] refusing: it has no meaning here" in out


def test_one_measure_that_fails_does_not_stop_the_others(flatmeter, checkpoint, toys):
    code, out, err = flatmeter(
        "measure", checkpoint, "-M", _toy(toys, "Buggy"), "-M", _toy(toys, "Norm"), "-o", "out"
    )
    assert code == 1
    assert "a bug in buggy: KeyError: 'nothing'" in err
    assert "Traceback" not in err
    assert "Traceback" in Path("out/log.txt").read_text()
    assert "error [1]" in out
    code, out, _ = flatmeter(
        "measure", checkpoint, "-M", _toy(toys, "Buggy"), "-M", _toy(toys, "Norm"), "--fail-fast"
    )
    assert code == 70
    assert "norm" not in out


@pytest.mark.parametrize(
    ("toy", "code", "text"),
    [
        ("Infinite", 1, "the value is nan"),
        ("Vandal", 1, "vandal changed the network's parameters"),
        ("Hungry", 5, "memory ran out with one sample, one vector and one class"),
        ("Buggy", 70, "a bug in buggy"),
    ],
)
def test_failures_of_single_measures(flatmeter, checkpoint, toys, toy, code, text):
    found, out, err = flatmeter("measure", checkpoint, "-M", _toy(toys, toy), "-f", "json")
    (row,) = json.loads(out)["rows"]
    assert found == code
    assert row["status"] == "error"
    assert row["value"] is None
    assert text in row["message"]
    assert text in err


def test_a_vandal_does_not_spoil_what_follows(flatmeter, checkpoint, toys):
    norm = ("-M", _toy(toys, "Norm"), "-f", "json", "-q")
    alone = json.loads(flatmeter("measure", checkpoint, *norm)[1])["rows"][0]
    after = flatmeter("measure", checkpoint, "-M", _toy(toys, "Vandal"), *norm)[1]
    assert json.loads(after)["rows"][1]["value"] == alone["value"]


def test_batches_shrink_until_they_fit(flatmeter, checkpoint, toys):
    code, out, _ = flatmeter(
        "measure", checkpoint, "-M", _toy(toys, "Peckish"), "-b", 16, "-f", "json", "-q"
    )
    assert code == 0
    assert json.loads(out)["rows"][0]["value"] == 4


def test_many_checkpoints_one_of_them_bad(flatmeter, checkpoint, toys, make_checkpoint, tmp_path):
    make_checkpoint(tmp_path, "c.pt", seed=2)
    (tmp_path / "b.pt").write_bytes(checkpoint.read_bytes()[:500])
    norm = ("-M", _toy(toys, "Norm"))
    code, out, err = flatmeter("measure", "a.pt", "b.pt", "c.pt", *norm)
    assert code == 1
    assert "b.pt" in err
    assert [line.split()[0] for line in out.splitlines()[2:5]] == ["a.pt", "b.pt", "c.pt"]
    assert "error [1]" in out
    code, out, _ = flatmeter("measure", "a.pt", "b.pt", "c.pt", *norm, "--fail-fast")
    assert code == 1
    assert "c.pt" not in out
    assert flatmeter("measure", "b.pt", *norm)[0] == 3
    assert flatmeter("measure", "b.pt", *norm)[1] == ""


def test_wrong_network(flatmeter, checkpoint, toys):
    code, out, err = flatmeter(
        "measure", checkpoint, "-M", _toy(toys, "Norm"), "--model-arg", "hidden=[6]"
    )
    assert code == 4
    assert out == ""
    assert "linear0.weight" in err


def test_missing_words_are_named_with_a_guess(flatmeter, checkpoint, toys):
    state = torch.load(checkpoint)["state_dict"]
    torch.save(state, "bare.pt")
    norm = ("-M", _toy(toys, "Norm"), "-q")
    code, _, err = flatmeter("measure", "bare.pt", *norm)
    assert code == 2
    assert "nothing says which network these weights belong to and which data" in err
    assert "--model path/to/net.py:factory --data path/to/data.py:factory" in err
    code, _, err = flatmeter("measure", "bare.pt", *norm, "--model", "net.py:build")
    assert code == 2
    assert "--data path/to/data.py:factory" in err
    assert flatmeter("measure", "bare.pt", *norm, "-m", "net.py:build", "-d", "data.npz")[0] == 0
    Path("bare.pt.yaml").write_text("model: net.py:build\ndata: data.npz\n")
    assert flatmeter("measure", "bare.pt", *norm)[0] == 0
    Path("bare.pt.yaml").write_text("modell: net.py:build\n")
    code, _, err = flatmeter("measure", "bare.pt", *norm)
    assert code == 2
    assert "bare.pt.yaml:1: unknown setting 'modell'\ndid you mean 'model'" in err


@pytest.mark.parametrize("field", ["model", "data", "loss"])
def test_code_that_only_the_checkpoint_names_is_not_run(flatmeter, checkpoint, toys, field):
    """A checkpoint may be a stranger's: it must not choose what is imported and called."""
    content = torch.load(checkpoint)
    content["flatmeter"][field] = "evil.py:run"
    torch.save(content, "evil.pt")
    Path("evil.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    code, out, err = flatmeter("measure", "evil.pt", "-M", _toy(toys, "Norm"))
    assert (code, out) == (2, "")
    assert not Path("ran").exists()
    assert f"names code to run, evil.py:run for its {field}" in err
    assert f"--{field} evil.py:run" in err


def test_code_that_is_named_by_hand_is_run_with_the_arguments_stored(flatmeter, checkpoint, toys):
    content = torch.load(checkpoint)
    content["flatmeter"].update(model="net.py:build", model_args={"hidden": 5})
    torch.save(content, "own.pt")
    norm = ("-M", _toy(toys, "Norm"), "-q")
    assert flatmeter("measure", "own.pt", *norm)[0] == 2
    assert flatmeter("measure", "own.pt", *norm, "--model", "net.py:build")[0] == 0
    Path("flatmeter.yaml").write_text(f"model: {Path.cwd()}/net.py:build\n")
    assert flatmeter("measure", "own.pt", *norm)[0] == 0
    assert flatmeter("measure", "a.pt", *norm)[0] == 0


def test_the_project_file_speaks_for_checkpoints_that_are_silent(flatmeter, checkpoint, toys):
    torch.save(torch.load(checkpoint)["state_dict"], "bare.pt")
    Path("flatmeter.yaml").write_text("model: net.py:build\ndata: data.npz\nloss: mse\n")
    norm = ("-M", _toy(toys, "Norm"), "-f", "json", "-q")
    assert flatmeter("measure", "a.pt", *norm)[0] == 0
    code, _, err = flatmeter("measure", "bare.pt", *norm)
    assert code == 2
    assert "--loss cross_entropy" in err


def test_folders_patterns_and_lists(flatmeter, checkpoint, toys, make_checkpoint, tmp_path):
    make_checkpoint(tmp_path, "b.pt", seed=1)
    norm = ("-M", _toy(toys, "Norm"), "-f", "jsonl", "--columns", "loss", "-q")

    def names(*arguments, stdin=""):
        code, out, _ = flatmeter("measure", *arguments, *norm, stdin=stdin)
        assert code == 0
        return list(dict.fromkeys(json.loads(x)["checkpoint"] for x in out.splitlines()))

    assert names(tmp_path) == [f"{tmp_path}/a.pt", f"{tmp_path}/b.pt"]
    assert names("*.pt") == ["a.pt", "b.pt"]
    assert names("-", stdin="b.pt\n\na.pt\n") == ["b.pt", "a.pt"]
    assert names("b.pt", "b.pt") == ["b.pt"]
    (tmp_path / "empty").mkdir()
    for argument in ("empty", "*.ckpt", "missing.pt"):
        code, _, err = flatmeter("measure", argument, *norm)
        assert code in (2, 3)
        assert argument in err
        assert "Traceback" not in err
    assert flatmeter("measure")[0] == 2


@pytest.mark.parametrize("stdin", ["", "\n \n"])
def test_an_empty_list_is_no_list(flatmeter, stdin):
    code, out, err = flatmeter("measure", "-", stdin=stdin)
    assert (code, out) == (2, "")
    assert err.startswith("flatmeter: error: -: no checkpoint is named on stdin\n")


def test_resume_measures_only_what_is_missing(flatmeter, checkpoint, toys):
    arguments = ("measure", checkpoint, "-M", _toy(toys, "Norm"), "-o", "out", "-v")
    assert flatmeter(*arguments)[0] == 0
    code, _out, err = flatmeter(*arguments)
    assert code == 0
    assert "norm: from the results folder" in err
    assert "note: out holds 3 rows of 1 measurement; what is finished is not repeated\n" in err
    assert "note: measured already: 1 of 1 measurement\n" in err
    assert len(Path("out/results.jsonl").read_text().splitlines()) == 3
    code, _, err = flatmeter(*arguments, "-b", 5)
    assert "norm: from the results folder" in err
    code, _, err = flatmeter(*arguments, "--seed", 1)
    assert "from the results folder" not in err
    code, _, err = flatmeter(*arguments, "--force")
    assert "from the results folder" not in err
    assert "6 rows of 2 measurements; all is measured anew\n" in err
    assert "measured already" not in err
    groups = read_groups(Path("out")).values()
    assert sorted(rows[0].revision for rows in groups) == [0, 1]
    run = json.loads(Path("out/run.json").read_text())
    assert {"flatmeter", "torch", "argv", "settings", "data", "device"} <= set(run)


def test_equal_weights_under_another_name_are_kept_under_both(flatmeter, checkpoint, toys):
    shutil.copy(checkpoint, "b.pt")
    arguments = ("measure", "a.pt", "b.pt", "-M", _toy(toys, "Norm"), "-o", "out", "-f", "csv")
    for _ in range(2):
        assert flatmeter(*arguments)[0] == 0
    rows = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    assert [r["checkpoint"] for r in rows] == 3 * ["a.pt"] + 3 * ["b.pt"]


def test_a_checkpoint_that_cannot_be_read_is_a_row_of_the_folder(flatmeter, checkpoint, toys):
    Path("b.pt").write_bytes(b"nothing of the kind")
    arguments = ("measure", "a.pt", "b.pt", "-M", _toy(toys, "Norm"), "-o", "out", "-q")
    assert flatmeter(*arguments)[0] == 1
    lost = [rows[0] for rows in read_groups(Path("out")).values() if rows[0].checkpoint == "b.pt"]
    assert [(row.status, row.sha256) for row in lost] == [("error", "")]


def test_a_part_of_the_list(flatmeter, checkpoint, toys, monkeypatch):
    for name in ("b.pt", "c.pt"):
        shutil.copy(checkpoint, name)
    arguments = ("measure", "c.pt", "b.pt", "a.pt", "-M", _toy(toys, "Norm"), "-f", "jsonl")

    def part(*flags):
        code, out, err = flatmeter(*arguments, *flags)
        assert code == 0
        return list(dict.fromkeys(json.loads(line)["checkpoint"] for line in out.splitlines())), err

    assert part("--shard", "1/2", "-o", "out") == (
        ["a.pt", "c.pt"],
        "note: part 1/2: 2 of 3 checkpoints, a.pt to c.pt\n"
        "note: measured already: 1 of 2 measurements\n",
    )
    assert json.loads(Path("out/run.json").read_text())["part"].startswith("part 1/2: ")
    assert part("--shard", "4/4") == ([], "note: part 4/4: 0 of 3 checkpoints\n")
    for name, value in {"ID": "6", "MIN": "5", "COUNT": "2"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert part() == (["c.pt", "b.pt", "a.pt"], "")
    assert part("--shard", "auto") == (["b.pt"], "note: part 2/2: 1 of 3 checkpoints, b.pt\n")
    assert "3/2" in flatmeter(*arguments, "--shard", "3/2")[2]


def test_exports(flatmeter, checkpoint, toys):
    code, _, _ = flatmeter(
        *("measure", checkpoint, "-M", _toy(toys, "Norm"), "-q"),
        *("--export", "a.csv", "--export", "b.html", "--columns", "norm.dim"),
    )
    assert code == 0
    assert Path("a.csv").read_text().startswith("schema_version,checkpoint,")
    assert "<td>43.00</td>" in Path("b.html").read_text()


def test_plan_without_measuring(flatmeter, checkpoint, toys):
    code, out, _ = flatmeter(
        "measure", checkpoint, "-M", _toy(toys, "Slow"), "-M", _toy(toys, "Norm"), "--dry-run"
    )
    assert code == 0
    assert "norm (bn eval) power=2.0, mode=plain" in out
    assert "a.pt: 43 parameters in 4 tensors, 24 samples" in out
    assert "to measure: 2, finished before: 0" in out
    assert re.search(r"curvature product [\d.e-]+ s", out)
    assert re.search(r"^ +norm +unknown$", out, re.MULTILINE)


def test_plan_says_what_measures_usually_cost(flatmeter, checkpoint):
    code, out, _ = flatmeter("measure", checkpoint, "--dry-run")
    assert code == 0
    for name in ("hessian_eigenvalues", "gradient_norm", "bn_sharpness"):
        assert re.search(rf"^ +{name} +\d+( to \d+)? +.* s +\d+ [KM]iB$", out, re.MULTILINE), name
    assert "unknown" not in out


def test_part_of_the_parameters(flatmeter, checkpoint, toys):
    code, out, _ = flatmeter(
        "measure", checkpoint, "-M", _toy(toys, "Norm"), "--params", "linear0.*", "-f", "json", "-q"
    )
    assert code == 0
    assert json.loads(out)["rows"][1]["value"] == 25


def test_batch_norm_mode_is_told(flatmeter, toys, make_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_checkpoint(tmp_path, "bn.pt", bn=True)
    arguments = ("measure", "bn.pt", "-M", _toy(toys, "Norm"), "-q")
    assert "bn eval" in flatmeter(*arguments)[1]
    row = json.loads(flatmeter(*arguments, "--bn", "batch", "-f", "json")[1])["rows"][0]
    assert (row["bn_mode"], row["bn_batch"]) == ("batch", 256)
