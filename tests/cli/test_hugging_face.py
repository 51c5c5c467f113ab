"""Hugging Face folders at the command line: what they are, and what is measured of them."""

from __future__ import annotations

import json
import shlex

import pytest
import torch
from torch.nn import functional as F

from flatmeter.errors import ExitCode

tiny = pytest.importorskip("tiny_transformers")

GPT2, LLAMA, BERT, VIT = tiny.GPT2, tiny.LLAMA, tiny.BERT, tiny.VIT
#: Symmetries of two layers, counted by hand in tests/symmetry/test_transformers_groups.py.
SYMMETRIES = {GPT2: 5, LLAMA: 12, BERT: 12, VIT: 12}
MEASURES = ("-M", "gradient_norm", "-M", "hessian_eigenvalues")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Folders of networks in the working folder, beside data for each."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(tiny.SENTENCE * 6)
    ids = tiny.inputs_of(BERT, 6)
    mask = torch.ones_like(ids)
    mask[2, 4:] = 0
    labels = torch.arange(6) % 3
    torch.save({"input_ids": ids, "attention_mask": mask, "labels": labels}, "texts.pt")
    torch.save((tiny.inputs_of(VIT, 6), labels), "images.pt")

    def make(architecture, name="net", **values):
        tiny.save_folder(tmp_path / name, architecture)
        file = tmp_path / name / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
        return name

    return make


def loss_of(architecture):
    """By transformers' own network, on the data of the fixture."""
    model = tiny.make(architecture)
    with torch.no_grad():
        if architecture == VIT:
            x, y = torch.load("images.pt")
            return float(F.cross_entropy(model(x).logits, y))
        if architecture == BERT:
            data = torch.load("texts.pt")
            return float(model(**data).loss)
        tokens = tiny.transformers.AutoTokenizer.from_pretrained("net")(tiny.SENTENCE * 6)
        ids = torch.tensor(tokens["input_ids"])
        ids = ids[: len(ids) // 16 * 16].view(-1, 16)
        return float(model(ids, labels=ids).loss)


@pytest.mark.parametrize("architecture", [GPT2, LLAMA, BERT, VIT])
def test_the_line_that_inspect_prints_measures_it(architecture, folder, flatmeter):
    name = folder(architecture)
    code, out, _ = flatmeter("inspect", name, "--symmetries", "-f", "json")
    assert code == ExitCode.OK
    (found,) = json.loads(out)["checkpoints"]
    network = found["network"]
    assert (network["architecture"], network["fits"]) == (architecture, True)
    assert network["said_by"] == "its config.json"
    assert network["classes"] == (tiny.TOKENS if architecture in (GPT2, LLAMA) else 3)
    assert network["positions"] == (None if architecture == VIT else 16)
    assert network["input_shape"] == ([3, 8, 8] if architecture == VIT else None)
    assert found["symmetries"] == SYMMETRIES[architecture]
    places = {"text:FILE": "text:text.txt", "FILE.pt": "texts.pt", "imagefolder:8@DIR": "images.pt"}
    words = [places.get(word, word) for word in shlex.split(found["measure"])[1:]]
    assert words[:3] == ["measure", name, "--data"]
    code, out, err = flatmeter(*words, *MEASURES, "-f", "json")
    assert code == ExitCode.OK, err
    rows = {r["quantity"]: r for r in json.loads(out)["rows"] if r["scope"] == "network"}
    assert rows["value"]["loss"] == pytest.approx(loss_of(architecture), rel=1e-5)
    assert rows["value"]["value"] > 0
    assert rows["lambda_max"]["value"] > 0
    assert ("predicted tokens" in err) == (architecture in (GPT2, LLAMA))


def test_the_text_of_an_inspection(folder, flatmeter):
    code, out, _ = flatmeter("inspect", folder(GPT2))
    assert code == ExitCode.OK
    lines = [line.strip() for line in out.splitlines()]
    assert "network       GPT2LMHeadModel, named by its config.json; names and shapes fit" in lines
    assert "input         up to 16 tokens; 60 outputs" in lines
    assert lines[-2:] == [
        "flatmeter measure net --data text:FILE",
        "(FILE is a text that it learnt from)",
    ]


def test_networks_that_are_not_built_are_still_looked_at(folder, flatmeter):
    code, out, _ = flatmeter("inspect", folder(GPT2, architectures=["T5Model"]))
    assert code == ExitCode.OK
    text = " ".join(out.split())
    assert "network networks of class T5Model are not built by themselves" in text
    assert "--model path/to/net.py:factory" in text
    assert "symmetries not counted: the network is not built" in text


def test_without_transformers(folder, flatmeter, monkeypatch):
    name = folder(GPT2)
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == "transformers" else find(name)
    )
    code, out, _ = flatmeter("inspect", name)
    assert code == ExitCode.OK
    assert "GPT2LMHeadModel, named by its config.json" in out
    assert "pip install 'flatmeter[hf]'" in out
    code, _, err = flatmeter("measure", name, "--data", "text:text.txt")
    assert code == ExitCode.USAGE
    assert "pip install 'flatmeter[hf]'" in err


def test_what_is_refused_at_the_command_line(folder, flatmeter):
    def refused(name, *arguments):
        code, _, err = flatmeter("measure", name, *arguments, *MEASURES[:2])
        assert "Traceback" not in err
        return code, " ".join(err.split())

    code, err = refused(folder(GPT2, auto_map={"AutoModel": "code.Net"}), "--data", "text:text.txt")
    assert (code, "auto_map: code.Net" in err) == (ExitCode.REFUSED, True)
    code, err = refused(folder(GPT2, n_inner=8), "--data", "text:text.txt")
    assert (code, "of another shape" in err) == (ExitCode.MISMATCH, True)
    net, bert = folder(GPT2), folder(BERT, "bert")
    code, err = refused(net)
    assert (code, "--data text:FILE" in err) == (ExitCode.USAGE, True)
    code, err = refused(net, "--data", "text:text.txt", "--loss", "cross_entropy")
    assert (code, "its loss is --loss causal_lm" in err) == (ExitCode.USAGE, True)
    code, err = refused(bert, "--data", "text:text.txt")
    assert (code, "it predicts no next token" in err) == (ExitCode.USAGE, True)
    code, err = refused(bert, "--data", "texts.pt", "--loss", "causal_lm")
    assert (code, "it predicts no next token" in err) == (ExitCode.USAGE, True)
    code, err = refused(f"{net}/model.safetensors")
    assert (code, "--model hf:net" in err) == (ExitCode.USAGE, True)
    code, err = refused(net, "--data", "text.txt")
    assert (code, "write text:text.txt" in err) == (ExitCode.USAGE, True)
    code, err = refused(net, "--data", "text:")
    assert (code, "does not say which file" in err) == (ExitCode.USAGE, True)
    torch.save(torch.full((3, 5), 60), "tokens.pt")
    code, err = refused(net, "--data", "tokens.pt")
    assert (code, "tokens run from 60 to 60" in err) == (ExitCode.USAGE, True)
    torch.save(torch.zeros(3, 17).long(), "long.pt")
    code, err = refused(net, "--data", "long.pt")
    assert (code, "longer than the 16" in err) == (ExitCode.USAGE, True)
    torch.save({"inputs": torch.zeros(3, 2, 5).long(), "targets": torch.zeros(3).long()}, "s.pt")
    code, err = refused(bert, "--data", "s.pt")
    assert (code, "takes tokens [n, T]" in err) == (ExitCode.USAGE, True)


def test_masked_tokens_are_for_networks_that_know_masks(folder, flatmeter, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Embedding(60, 4), nn.Flatten(), nn.Linear(56, 3))\n"
    )
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Embedding(60, 4), torch.nn.Flatten(), torch.nn.Linear(56, 3))
    torch.save(net.state_dict(), "own.pt")
    folder(BERT)  # the data
    code, _, err = flatmeter("measure", "own.pt", "--model", "net.py:build", "--data", "texts.pt")
    assert code == ExitCode.USAGE
    assert "these are input_ids, attention_mask" in err


def test_padding_that_nothing_masks_is_told(folder, flatmeter):
    ids = tiny.inputs_of(BERT, 6)
    ids[1, 5:] = ids[3, 6:] = 1
    torch.save({"input_ids": ids, "labels": torch.arange(6) % 3}, "padded.pt")
    code, _, err = flatmeter("measure", folder(BERT), "--data", "padded.pt", *MEASURES[:2])
    assert code == ExitCode.OK
    assert "2 of 6 sequences begin or end with the padding token (1)" in err
