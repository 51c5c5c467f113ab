"""Texts in windows of tokens, against transformers' own tokenizer and cuts by hand."""

from __future__ import annotations

import json
import socket

import pytest
import torch

from flatmeter.config.anchor import anchored
from flatmeter.data.sources import load_data
from flatmeter.data.subset import subset_indices
from flatmeter.data.text import Tokenizer
from flatmeter.errors import DataError, FlatmeterError
from flatmeter.subject import Loader
from flatmeter.words import names_code

tiny = pytest.importorskip("tiny_transformers")

TEXT = tiny.SENTENCE * 9 + "café — naïve\n"


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    def connect(*arguments):
        raise AssertionError("nothing is to be fetched")

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "t.txt").write_text(TEXT, encoding="utf-8")
    tiny.save_tokenizer(tmp_path / "folder", TEXT)
    return tmp_path


def tokens_of(folder):
    return tiny.transformers.AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]


def load(place, spec=None, *, positions=16, folder="folder", **more):
    spec = spec or f"text:{place / 't.txt'}"
    return load_data(spec, tokenizer=Tokenizer(place / folder, positions), **more)


@pytest.mark.parametrize(
    ("form", "positions", "width"),
    [("text:{}", 16, 16), ("text:{}", None, 128), ("text:7@{}", 16, 7), ("text@{}", 500, 128)],
)
def test_windows_follow_one_another(place, form, positions, width):
    own = tokens_of(place / "folder")
    data = load(place, form.format(place / "t.txt"), positions=positions)
    count = len(own) // width
    assert data.inputs.tolist() == [own[i * width : (i + 1) * width] for i in range(count)]
    assert torch.equal(data.targets, data.inputs)
    assert (data.loss, data.source_size, data.unseen) == ("causal_lm", count, 0)
    left = len(own) - count * width
    assert (f"left over at the end: {left} of {len(own)} tokens" in data.notes[0]) == bool(left)
    assert f"windows of {width} tokens, each of which is a sample: {count}" in data.notes[0]


def test_a_short_text_is_one_window(place):
    (place / "t.txt").write_text("the fox", encoding="utf-8")
    data = load(place)
    assert len(data) == 1
    assert 2 <= data.inputs.shape[1] < 16


def test_a_subset_of_the_windows(place):
    whole = load(place, samples=None)
    part = load(place, samples=3, seed=1)
    assert len(part) == 3
    assert part.source_size == len(whole)
    assert torch.equal(part.inputs, whole.inputs[subset_indices(len(whole), 3, 1)])


def test_what_a_tokenizer_adds_by_itself(place):
    tiny.save_tokenizer(place / "bos", TEXT, bos=True)
    data = load(place, folder="bos")
    assert data.inputs[0, 0] == 0
    assert not (data.inputs.flatten()[1:] == 0).any()
    assert data.inputs.flatten().tolist() == tokens_of(place / "bos")[: data.inputs.numel()]
    # Of another tokenizer these are other data, by name and content.
    assert data.name != load(place).name
    assert data.fingerprint() != load(place).fingerprint()


def test_the_older_files_of_a_tokenizer(place):
    """A vocabulary and merges, as GPT-2's first folders have them."""
    model = json.loads((place / "folder" / "tokenizer.json").read_text())["model"]
    old = place / "old"
    old.mkdir()
    (old / "vocab.json").write_text(json.dumps({**model["vocab"], "<|endoftext|>": 60}))
    merges = [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
    (old / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    (old / "config.json").write_text(json.dumps(config))
    assert torch.equal(load(place, folder="old").inputs, load(place).inputs)


def refused(place, *arguments, **more):
    with pytest.raises(FlatmeterError) as caught:
        load(place, *arguments, **more)
    assert isinstance(caught.value, DataError)
    return str(caught.value)


def test_what_is_refused(place):
    file = place / "t.txt"
    assert "longer than the 16 that the network takes" in refused(place, f"text:17@{file}")
    assert "leave nothing to predict" in refused(place, f"text:1@{file}")
    assert "too few for a window of 9,000" in refused(place, f"text:9000@{file}", positions=None)
    assert "no such file" in refused(place, f"text:{place / 'u.txt'}")
    assert "tokenizer cannot be read" in refused(place, folder="nothing")
    file.write_bytes(b"a\xff")
    assert "no text in UTF-8: invalid start byte at byte 1" in refused(place)
    file.write_text("")
    assert "0 tokens, too few" in refused(place)
    with pytest.raises(DataError, match="needs the tokenizer"):
        load_data(f"text:{file}")


def test_a_tokenizer_that_is_code_is_refused(place):
    settings = place / "folder" / "tokenizer_config.json"
    own = {"auto_map": {"AutoTokenizer": ["code.Slow", None]}}
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **own}))
    (place / "folder" / "code.py").write_text("open('witness', 'w')")
    assert "auto_map" in refused(place)


def test_a_text_is_no_code_and_has_a_path(tmp_path):
    assert not names_code("data", "text:a.txt")
    assert not names_code("model", "hf:a/b")
    assert anchored("data", "text:a.txt", tmp_path) == f"text:{tmp_path / 'a.txt'}"
    assert anchored("data", "text:64@a.txt", tmp_path) == f"text:64@{tmp_path / 'a.txt'}"
    assert anchored("model", "hf:a", tmp_path) == f"hf:{tmp_path / 'a'}"


def test_texts_are_cut_anew_for_another_folders_tokenizer(place):
    loader = Loader({"data": f"text:{place / 't.txt'}"})
    found = []
    for name, bos in (("a", False), ("b", True)):
        tiny.make("GPT2LMHeadModel").save_pretrained(place / name)
        tiny.save_tokenizer(place / name, TEXT, bos=bos)
        found.append(loader.load(place / name))
    assert [int(subject.data.inputs[0, 0] == 0) for subject in found] == [0, 1]
    assert found[0].loss.name == found[1].loss.name == "causal_lm"
