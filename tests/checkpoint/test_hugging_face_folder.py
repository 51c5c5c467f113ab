"""Folders of a configuration and weights, in one file or several."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from flatmeter.checkpoint import read
from flatmeter.errors import CheckpointRefused
from flatmeter.import_torchvision import import_torchvision

TENSORS = {"a.weight": torch.ones(2, 2), "b.weight": torch.zeros(3), "c": torch.full((1,), 2.0)}


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "f"
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": 2}))
    return place


def sharded(folder, kind="safetensors", **changed):
    names = list(TENSORS)
    stem = "model" if kind == "safetensors" else "pytorch_model"
    places = {}
    for number, inside in enumerate((names[:2], names[2:]), 1):
        file = f"{stem}-{number:05}-of-00002.{kind}"
        tensors = {name: TENSORS[name] for name in inside}
        save_file(tensors, folder / file) if kind != "bin" else torch.save(tensors, folder / file)
        places |= dict.fromkeys(inside, file)
    index = {"metadata": {}, "weight_map": {**places, **changed}}
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("shards", [False, True])
def test_every_way_to_store_weights(folder, equal, kind, shards):
    if shards:
        sharded(folder, kind)
    elif kind == "bin":
        torch.save(TENSORS, folder / "pytorch_model.bin")
    else:
        save_file(TENSORS, folder / "model.safetensors")
    found = read(folder)
    assert found.format == "Hugging Face folder"
    assert equal(dict(found.tensors), TENSORS)
    assert found.metadata["stored"]["config"] == {"model_type": "gpt2", "n_layer": 2}


def test_safetensors_are_preferred(folder, equal):
    torch.save({"a": torch.ones(1)}, folder / "pytorch_model.bin")
    save_file(TENSORS, folder / "model.safetensors")
    assert equal(dict(read(folder).tensors), TENSORS)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"a.weight": "model-00002-of-00002.safetensors"}, "index does not say"),
        ({"d": "model-00002-of-00002.safetensors"}, "1 tensors are missing"),
        ({"d": "../outside.safetensors"}, "outside of its folder"),
        ({"d": "model-00003-of-00003.safetensors"}, "not there"),
        ({"d": 5}, "no file"),
    ],
)
def test_an_index_that_contradicts_the_files(folder, tmp_path, changed, said):
    save_file({"d": torch.ones(1)}, tmp_path / "outside.safetensors")
    with pytest.raises(CheckpointRefused, match=said):
        read(sharded(folder, **changed))


def test_what_transformers_writes(tmp_path, equal):
    import_torchvision()  # which transformers imports, where its operators may be missing
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=32, n_positions=16)
    model = transformers.GPT2LMHeadModel(config)
    for size in ("5MB", "4KB"):
        model.save_pretrained(tmp_path / size, max_shard_size=size)
        found = read(tmp_path / size)
        state = model.state_dict()
        state.pop("lm_head.weight")  # tied to the embedding, and stored once
        assert equal(dict(found.tensors), dict(state))
        assert found.metadata["stored"]["config"]["architectures"] == ["GPT2LMHeadModel"]
