"""Networks of Hugging Face folders: transformers' own outputs, however weights are stored."""

from __future__ import annotations

import json
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file

from flatmeter.errors import ArchitectureMismatch, CheckpointRefused, UsageError
from flatmeter.model.example_inputs import example_inputs
from flatmeter.model.hugging_face_config import ARCHITECTURES
from flatmeter.model.registry import build_model
from flatmeter.subject import Loader

tiny = pytest.importorskip("tiny_transformers")

GPT2, LLAMA, BERT, VIT = tiny.GPT2, tiny.LLAMA, tiny.BERT, tiny.VIT


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """Whoever opens a connection fails."""

    def connect(*arguments):
        raise AssertionError("nothing is to be fetched")

    monkeypatch.setattr(socket.socket, "connect", connect)


def loaded(path, **given):
    return Loader(given).network(path)


def own_logits(model, x, **more):
    with torch.no_grad():
        return model(x, **more).logits


def assert_same(network, model, x):
    with torch.no_grad():
        torch.testing.assert_close(network.model(x), own_logits(model, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_outputs_are_transformers_own(architecture, tmp_path):
    model = tiny.make(architecture)
    model.save_pretrained(tmp_path)
    x = tiny.inputs_of(architecture)
    network = loaded(tmp_path)
    assert not network.model.training
    assert network.recipe["model"] == f"hf:{architecture}"
    wanted = own_logits(model, x)
    if wanted.dim() == 3 and architecture not in (GPT2, LLAMA):
        wanted = wanted.movedim(-1, 1)  # classes second, as losses of positions take them
    with torch.no_grad():
        found = network.model(x)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    names = [name for name, _ in network.model.named_parameters()]
    assert names == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("way", ["sharded", "bin", "head written out", "bare file", "config alone"])
def test_every_way_to_store_it(way, tmp_path):
    model, x = tiny.make(GPT2), tiny.inputs_of(GPT2)
    folder, path, given = tmp_path / "folder", None, {}
    model.save_pretrained(folder, max_shard_size="8KB" if way == "sharded" else "1GB")
    if way == "sharded":
        assert len(list(folder.glob("model-*.safetensors"))) > 1
    else:
        state = load_file(folder / "model.safetensors")
        assert "lm_head.weight" not in state
        (folder / "model.safetensors").unlink()
        if way == "bin":
            torch.save(model.state_dict(), folder / "pytorch_model.bin")
        elif way == "head written out":
            head = state["transformer.wte.weight"].clone()
            save_file({**state, "lm_head.weight": head}, folder / "model.safetensors")
        else:
            path = tmp_path / "last.pt"
            torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, path)
            alone = way == "config alone"
            given["model"] = f"hf:{folder}/config.json" if alone else f"hf:{folder}"
    assert_same(loaded(path or folder, **given), model, x)


def of_the_hub(state):
    """GPT-2 as its authors' conversion stored it: without a first prefix, with causal masks."""
    short = {name.removeprefix("transformer."): t for name, t in state.items()}
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 16, 16).tril() for i in range(2)}
    return short | masks


def of_old_bert(state):
    for new, old in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
        state = {name.replace(new, old): t for name, t in state.items()}
    return state | {"bert.embeddings.position_ids": torch.arange(16)[None]}


def of_old_llama(state):
    inside = "model.layers.{}.self_attn.rotary_emb.inv_freq"
    return state | {inside.format(i): torch.ones(2) for i in range(2)}


@pytest.mark.parametrize(
    ("architecture", "change", "note"),
    [
        (GPT2, of_the_hub, "2 constants of an older transformers left out"),
        (BERT, of_old_bert, "names of an older transformers brought up to date"),
        (LLAMA, of_old_llama, "2 constants of an older transformers left out"),
    ],
)
def test_names_of_other_times(architecture, change, note, tmp_path):
    model = tiny.make(architecture)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file(change(load_file(file)), file)
    network = loaded(tmp_path)
    assert note in network.notes
    assert_same(network, model, tiny.inputs_of(architecture))


def test_masks_and_types_are_given_with_the_tokens(tmp_path):
    model, ids = tiny.make(BERT), tiny.inputs_of(BERT)
    model.save_pretrained(tmp_path)
    mask, types = torch.ones_like(ids), torch.zeros_like(ids)
    mask[1, 4:], types[:, 3:] = 0, 1
    found = loaded(tmp_path).model
    for kept, more in ((2, {}), (3, {"token_type_ids": types})):
        with torch.no_grad():
            out = found(torch.stack([ids, mask, types][:kept], 1))
        wanted = own_logits(model, ids, attention_mask=mask, **more)
        torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(wanted, own_logits(model, ids, token_type_ids=types), atol=1e-3)


def test_the_norm_of_llama_keeps_the_digits_of_float64(tmp_path):
    model = tiny.make(LLAMA)
    model.save_pretrained(tmp_path)
    network, x = loaded(tmp_path).model.double(), tiny.inputs_of(LLAMA)
    theta = dict(network.named_parameters())["model.layers.0.input_layernorm.weight"]
    slopes = []
    for step in (1e-4, 1e-5):  # a slope of values that float32 rounded would be lost at the second
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                theta[0] += sign * step
                values.append(network(x).double().square().sum())
                theta[0] -= sign * step
        slopes.append(float(values[0] - values[1]) / (2 * step))
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-6)


@pytest.fixture
def config(tmp_path):
    """Changes the configuration of a folder, of GPT-2 if nothing else is said."""

    def change(architecture=GPT2, **values):
        tiny.make(architecture).save_pretrained(tmp_path)
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
        return tmp_path

    return change


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "code.Net"}}, "auto_map: code.Net"),
        ({"architectures": ["T5ForConditionalGeneration"]}, "T5ForConditionalGeneration"),
        ({"architectures": None}, "does not say which class"),
        ({"architectures": "os.system"}, "does not say which class"),
        ({"model_type": "bert"}, "contradicts itself"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"n_layer": 10**9}, "n_layer: 1e"),
        ({"n_head": 5}, "transformers builds no network"),
        ({"n_embd": 2**50}, "transformers builds no network"),
        ({"activation_function": "os.system"}, "transformers builds no network"),
    ],
)
def test_configurations_that_are_refused(config, values, said):
    with pytest.raises(CheckpointRefused) as caught:
        loaded(config(**values))
    assert said in str(caught.value)


@pytest.mark.parametrize("sizes", [{"hidden_size": 2 * 10**10}, {"vocab_size": 10**12}])
def test_sizes_of_which_nothing_is_stored_take_no_memory(sizes, config):
    folder = config(LLAMA, **sizes, head_dim=4)
    with pytest.raises(CheckpointRefused, match="more memory than is free"):
        loaded(folder)


def test_what_is_refused_says_what_to_do(config):
    folder = config(architectures=["GPTJForCausalLM"])
    with pytest.raises(CheckpointRefused) as caught:
        loaded(folder)
    hint = caught.value.hint
    assert "GPT2LMHeadModel" in hint
    assert "--model net.py:factory" in hint
    # The lines that it prints build the network, and its own folder says of which class.
    assert_same(
        loaded(folder, model_args={"architecture": GPT2}), tiny.make(GPT2), tiny.inputs_of(GPT2)
    )


def test_shapes_that_the_configuration_does_not_have(config):
    with pytest.raises(ArchitectureMismatch, match="of another shape"):
        loaded(config(n_inner=24))


def test_weights_that_are_tied_here_but_not_in_the_file(tmp_path):
    model = tiny.make(GPT2, tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "tie_word_embeddings": True}))
    with pytest.raises(ArchitectureMismatch, match="one tensor with another in the network"):
        loaded(tmp_path)
    untied = loaded(tmp_path, model_args={"tie_word_embeddings": False})
    assert_same(untied, model, tiny.inputs_of(GPT2))


def test_arguments_are_names_of_the_configuration(config):
    folder = config()
    with pytest.raises(UsageError, match="has no 'n_heads'"):
        loaded(folder, model_args={"n_heads": 4})
    with pytest.raises(UsageError, match="no such file or folder"):
        build_model(f"hf:{folder / 'nothing'}")


def test_kernels_that_would_be_fetched_are_not_used(config):
    folder = config(attn_implementation="kernels-community/flash-attn", output_attentions=True)
    assert_same(loaded(folder), tiny.make(GPT2), tiny.inputs_of(GPT2))


def test_without_transformers(config, monkeypatch):
    folder = config()
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == "transformers" else find(name)
    )
    with pytest.raises(UsageError, match="pip install 'flatmeter\\[hf\\]'"):
        loaded(folder)


def test_the_same_network_in_another_folder_is_the_same(tmp_path):
    recipes = []
    for name in ("a", "b"):
        tiny.make(GPT2).save_pretrained(tmp_path / name)
        recipes.append(loaded(tmp_path / name).recipe)
    assert recipes[0] == recipes[1]
    other = loaded(tmp_path / "b", model_args={"layer_norm_epsilon": 1e-3}).recipe
    assert other["config"] != recipes[0]["config"]


def test_a_network_without_a_checkpoint_has_weights(tmp_path):
    tiny.make(GPT2).save_pretrained(tmp_path)
    model = build_model(f"hf:{tmp_path}")
    assert 0.01 < float(model.get_parameter("transformer.wte.weight").detach().std()) < 0.03


@pytest.mark.parametrize("architecture", [GPT2, BERT, VIT])
def test_random_inputs_are_no_longer_than_it_takes(architecture, tmp_path):
    size = {"image_size": 4} if architecture == VIT else {"max_position_embeddings": 5}
    model = tiny.make(architecture, **size)
    model.save_pretrained(tmp_path)
    shape = example_inputs(loaded(tmp_path).model).shape
    assert shape == ((4, 3, 4, 4) if architecture == VIT else (4, 5))
