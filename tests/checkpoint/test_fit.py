"""Weights into networks: every one of them, or a list of what differs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from flatmeter.checkpoint import Checkpoint, fit, read
from flatmeter.errors import ArchitectureMismatch, CheckpointRefused, ExitCode


def checkpoint(tensors) -> Checkpoint:
    return Checkpoint(path=Path("here.pt"), format="torch zip", tensors=tensors)


def mismatch(model, tensors) -> ArchitectureMismatch:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ArchitectureMismatch) as caught:
        fit(model, checkpoint(tensors))
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert caught.value.exit_code == ExitCode.MISMATCH == 4
    assert "here.pt" in str(caught.value)
    return caught.value


def test_weights_and_buffers(fresh, state, equal):
    model = fresh()
    assert fit(model, checkpoint(state)) == ()
    assert equal(model.state_dict(), state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.net."])
def test_prefixes_are_stripped_and_told(fresh, state, equal, prefix):
    model = fresh()
    notes = fit(model, checkpoint({prefix + name: t for name, t in state.items()}))
    assert equal(model.state_dict(), state)
    assert all(any(part in note for note in notes) for part in prefix.strip(".").split("."))


def test_the_real_wrappers(net, fresh, state, equal, saved):
    model = fresh()
    average = torch.optim.swa_utils.AveragedModel(nn.DataParallel(net))
    fit(model, read(saved(average.state_dict())))
    assert equal(model.state_dict(), state)


def test_a_compiled_network(net, fresh, state, equal, saved):
    model = fresh()
    fit(model, read(saved(torch.compile(net).state_dict())))
    assert equal(model.state_dict(), state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_and_told(fresh, state, dtype):
    half = {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}
    model = fresh()
    notes = fit(model, checkpoint(half))
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight, half["0.weight"].float())
    assert len(notes) == 1
    assert str(dtype).removeprefix("torch.") in notes[0]


def test_nothing_of_double_precision_is_lost(fresh, state):
    double = {n: t.double() + 1e-12 if t.is_floating_point() else t for n, t in state.items()}
    model = fresh()
    fit(model, checkpoint(double))
    assert torch.equal(model[0].weight, double["0.weight"])


def test_first_ten_of_each_kind_with_counts(state):
    wide = nn.Sequential(*[nn.Linear(3, 3) for _ in range(7)])
    other = {f"layer{i}.weight": torch.zeros(3) for i in range(12)}
    shapes = {f"{i}.weight": torch.zeros(4, 4) for i in range(2)}
    error = mismatch(wide, {**other, **shapes})
    text = str(error)
    assert "12 missing" in error.message
    assert "12 unexpected" in error.message
    assert "2 of another shape" in error.message
    assert sum(line.strip().startswith("layer") for line in text.splitlines()) == 10
    assert "and 2 more" in text
    assert "0.weight is [4, 4], the network's is [3, 3]" in text
    assert "--model" in error.hint


@pytest.mark.parametrize("drop", ["0.weight", "1.running_mean", "3.bias"])
def test_one_missing(fresh, state, drop):
    error = mismatch(fresh(), {n: t for n, t in state.items() if n != drop})
    assert "1 missing" in error.message
    assert drop in error.hint


def test_one_too_many_under_its_name_in_the_file(fresh, state):
    tensors = {f"module.{n}": t for n, t in {**state, "head.weight": torch.ones(1)}.items()}
    error = mismatch(fresh(), tensors)
    assert "1 unexpected" in error.message
    assert "module.head.weight" in error.hint


def test_another_width(state):
    error = mismatch(nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU()), state)
    assert "0.weight is [4, 3], the network's is [5, 3]" in error.hint


def test_scalars_are_not_stretched():
    """copy_ would broadcast a single number over a weight."""
    mismatch(nn.Linear(2, 2), {"weight": torch.ones(1), "bias": torch.ones(2)})


def test_the_count_of_batches_may_be_missing(fresh, state):
    model = fresh()
    fit(model, checkpoint({n: t for n, t in state.items() if "num_batches" not in n}))
    assert torch.equal(model[1].running_mean, state["1.running_mean"])


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_whole_numbers_are_no_weights(fresh, state, dtype):
    with pytest.raises(CheckpointRefused) as caught:
        fit(fresh(), checkpoint({**state, "3.weight": state["3.weight"].to(dtype)}))
    assert "3.weight" in caught.value.message
    assert str(dtype).removeprefix("torch.") in caught.value.message


def tied():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False))
    model[2].weight = model[0].weight
    return model


@pytest.mark.parametrize("stored", [("0.weight",), ("2.weight",), ("0.weight", "2.weight")])
def test_tied_weights_may_be_stored_once(stored):
    model, weight = tied(), torch.randn(3, 3)
    fit(model, checkpoint(dict.fromkeys(stored, weight)))
    assert torch.equal(model[0].weight, weight)
    assert model[2].weight is model[0].weight


def test_tied_weights_that_differ_in_the_file():
    mismatch(tied(), {"0.weight": torch.zeros(3, 3), "2.weight": torch.ones(3, 3)})


def test_requires_grad_is_left_alone(fresh, state):
    model = fresh()
    model[0].requires_grad_(False)
    fit(model, checkpoint(state))
    assert not model[0].weight.requires_grad
    assert model[3].weight.requires_grad


def test_the_checkpoint_is_not_shared(fresh, state):
    model = fresh()
    fit(model, checkpoint(state))
    before = state["0.weight"].clone()
    model[0].weight.data.zero_()
    assert torch.equal(state["0.weight"], before)


def _normed(new, dim=0):
    wrap = nn.utils.parametrizations.weight_norm if new else nn.utils.weight_norm
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3, 2))
    for layer in (model[0], model[3]):
        wrap(layer, dim=dim)
    return model


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("wanted", [False, True, None])
@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.filterwarnings("ignore")
def test_either_weight_norm_fits_the_other_and_a_network_without(stored, wanted, dim):
    trained = _normed(stored, dim).double()
    for parameter in trained.parameters():
        parameter.data.normal_()
    plain = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3, 2))
    model = plain if wanted is None else _normed(wanted, dim)
    tensors = {f"module.{n}": t.clone() for n, t in trained.state_dict().items()}
    notes = fit(model, checkpoint(tensors))
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    assert torch.allclose(model(x), trained(x), rtol=1e-12)
    assert any("weight_norm" in note for note in notes) == (wanted is not stored)


def test_the_entries_of_weight_norm_are_not_put_together_where_one_is_missing():
    error = mismatch(nn.Linear(2, 2), {"weight_v": torch.ones(2, 2), "bias": torch.ones(2)})
    assert "weight_v" in error.hint


class Demanding(nn.Linear):
    """Loads what stands beside its weights too, as quantised layers do."""

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        self.packed = state_dict[prefix + "packed"]


def test_a_layer_that_cannot_load(saved):
    path = saved(dict(nn.Linear(2, 2).state_dict()))
    with pytest.raises(ArchitectureMismatch, match="does not take the weights") as caught:
        fit(Demanding(2, 2), read(path))
    assert "KeyError" in caught.value.hint
