"""Which entry of a file holds the weights."""

from __future__ import annotations

import pytest
import torch

from flatmeter.checkpoint import read
from flatmeter.checkpoint.unwrap import WRAPPERS
from flatmeter.errors import CheckpointRefused, UsageError

A = {"w": torch.zeros(2), "b": torch.zeros(1)}
B = {"w": torch.ones(2), "b": torch.ones(1)}
OPTIMISER = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}


def is_a(checkpoint) -> bool:
    return all(torch.equal(checkpoint.tensors[k], A[k]) for k in A) and len(checkpoint.tensors) == 2


@pytest.mark.parametrize("name", WRAPPERS)
def test_known_wrappers(saved, name):
    found = read(saved({"epoch": 3, name: A, "optimizer": OPTIMISER, "best": 0.5}))
    assert is_a(found)
    assert found.notes == ()


def test_the_documented_ones_are_known():
    documented = "model state_dict model_state_dict module net network params weights last app"
    assert list(WRAPPERS) == documented.split()


@pytest.mark.parametrize(
    "value",
    [
        {"pytorch-lightning_version": "2.4", "state_dict": A, "model": B, "hyper_parameters": {}},
        {"arch": "resnet50", "state_dict": A, "state_dict_ema": B, "epoch": 9},
        {"model": A, "model_ema": B, "model_args": {"n_layer": 2}},
        {"model": A, "state_dict": B},
        {"flatmeter": {"format": 1, "model": "zoo:mlp"}, "state_dict": A, "model": B},
        {"ema": B, "net": A},
    ],
    ids=["lightning", "timm", "nanogpt", "order", "flatmeter", "ema"],
)
def test_order_is_told(saved, value):
    found = read(saved(value))
    assert is_a(found)
    assert len(found.notes) == 1
    others = {"model", "state_dict_ema", "model_ema", "state_dict", "ema"}
    assert any(name in found.notes[0] for name in others)


def test_numbers_in_tensors_are_not_told_as_weights(saved):
    found = read(saved({"state_dict": A, "callbacks": {"best": {"score": torch.tensor(0.1)}}}))
    assert is_a(found)
    assert not found.notes


def test_wrapped_twice(saved):
    assert is_a(read(saved({"model": {"state_dict": A, "epoch": 1}})))


def test_bare_with_extra_state(saved):
    found = read(saved({**A, "layer._extra_state": {"scale": 1}}))
    assert is_a(found)
    assert "layer._extra_state" in found.notes[0]


@pytest.mark.parametrize(
    "value",
    [
        {"generator": A, "discriminator": B},
        {"model": {"actor": A, "critic": B}},
        {"model_ema": B, "epoch": 3},
        {"encoder": A},
    ],
    ids=["gan", "inner", "only averaged", "unusual"],
)
def test_no_guess(saved, value):
    with pytest.raises(CheckpointRefused, match="--key"):
        read(saved(value))


def test_the_optimiser_is_no_network(saved):
    with pytest.raises(CheckpointRefused, match="no weights"):
        read(saved({"optimizer": OPTIMISER, "epoch": 3}))


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"model": B, "model_ema": A}, "model_ema"),
        ({"model": B, "ema": {"decay": 0.9, "state_dict": A}}, "ema.state_dict"),
        ({"net.best": A, "net": B}, "net.best"),
        ({"runs": {"v1.0": {"net": A}}, "model": B}, "runs.v1.0.net"),
    ],
)
def test_key(saved, value, key):
    found = read(saved(value), key=key)
    assert is_a(found)


@pytest.mark.parametrize("key", ["modle", "model.w", "epoch", ""])
def test_wrong_key_lists_the_right_ones(saved, key):
    with pytest.raises(UsageError) as caught:
        read(saved({"model": A, "ema": B, "epoch": 3}), key=key)
    assert "model, ema" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"model": B, "model_ema": A}, "model_ema"),
        ({"arch": "resnet50", "state_dict": B, "state_dict_ema": A}, "state_dict_ema"),
        ({"model": B, "ema": {"decay": 0.9, "state_dict": A}}, "ema.state_dict"),
        ({"net": B, "averaged_model": A}, "averaged_model"),
        ({"model_ema": A, "epoch": 3}, "model_ema"),
    ],
)
def test_averaged_weights_where_they_are_asked_for(saved, value, key):
    found = read(saved(value), ema=True)
    assert is_a(found)
    assert found.key == key
    assert found.notes == (f"averaged weights taken from {key!r}",)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"model_state_dict": A, "best": {"net": B}}, "model_state_dict, best.net"),
        (A, "leave --ema out"),
        ({"ema": {"generator": A, "critic": B}}, "--key ema.generator"),
    ],
    ids=["named", "bare", "several"],
)
def test_averaged_weights_are_not_guessed(saved, value, said):
    with pytest.raises(UsageError) as caught:
        read(saved(value), ema=True)
    assert said in str(caught.value)


def both(names=("model", "model_ema")):
    """Two networks in one mapping, as Lightning stores a module that keeps an average."""
    return {f"{n}.{k}": t for n, state in zip(names, (B, A), strict=True) for k, t in state.items()}


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"state_dict": both()}, "state_dict.model_ema"),
        (both(), "model_ema"),
        (both(("net", "swa_net")), "swa_net"),
    ],
)
def test_a_beginning_of_names(saved, value, key):
    assert is_a(read(saved(value), key=key))
    found = read(saved(value), ema=True)
    assert is_a(found)
    assert found.key == key


def test_a_beginning_of_no_names(saved):
    with pytest.raises(UsageError, match="nothing stands under 'modle'"):
        read(saved(both()), key="modle")


@pytest.mark.parametrize("mark", ["ds_version", "ds_config"])
def test_deepspeed_by_name(saved, mark):
    with pytest.raises(CheckpointRefused, match=r"zero_to_fp32\.py"):
        read(saved({"module": A, mark: "0.14"}))
