"""The demo as a newcomer runs it, and what they are told to type next."""

import csv
import io

import pytest


@pytest.mark.slow
def test_demo_trains_saves_and_measures(process, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    child = process("demo")
    out, err = child.communicate(timeout=600)
    assert child.returncode == 0, err
    names = {path.stem for path in (tmp_path / "flatmeter-demo").iterdir()}
    assert names == {"mlp", "cnn", "residual", "mlp-bn-batch32", "mlp-bn-batch512", "cnn-bn"}
    assert out.startswith("in flatmeter-demo/\n")
    assert max(map(len, out.splitlines())) <= 80
    assert "error [" not in out
    last = err.splitlines()[-2:]
    assert last[0].endswith("flatmeter measure flatmeter-demo/*.pt")
    assert last[1].startswith("measure one of your own: flatmeter measure CKPT --model")

    child = process("measure", "flatmeter-demo", "-M", "gradient_norm", "-f", "csv", "-q")
    out, _ = child.communicate(timeout=120)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert child.returncode == 0
    assert len(rows) == 6
    assert all(float(row["accuracy"]) > 0.98 for row in rows)


@pytest.mark.parametrize("folder", ["file", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written_to(flatmeter, tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    code, out, err = flatmeter("demo", folder)
    assert (code, out) == (2, "")
    assert err.startswith(f"flatmeter: error: {folder}: cannot write: ")


def test_the_same_network_each_time():
    import torch

    from flatmeter.data.sources import load_data
    from flatmeter.demo import Recipe, train

    data = load_data("digits:train", samples=64)
    recipe = Recipe("zoo:mlp", epochs=2)
    torch.manual_seed(5)
    first = train(recipe, data).state_dict()
    second = train(recipe, data).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
