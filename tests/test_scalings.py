"""``flatmeter.symmetries``: from whatever a person holds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import flatmeter
from flatmeter.errors import UsageError
from flatmeter.model.zoo import cnn, mlp, resnet
from flatmeter.scalings import examine


def test_a_network_in_memory_needs_nothing_else():
    net = mlp(4, [5], 3)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    found = flatmeter.symmetries(net)
    assert (found.dim, found.kinds, found.bn) == (1, {"between layers": 1}, None)
    assert found.generators[0].words == "linear0.weight, linear0.bias up; head.weight down"
    assert (found.channel_dim, found.blocks) == (5, ())
    assert (found.name, found.source) == ("Sequential", "random")
    assert found.group.error <= 1e-14
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert str(found).startswith("Sequential: 1 independent symmetry of 4 tensors\n")


def test_batch_norm_by_either_statistics():
    net = cnn(1, [3, 4], 3, norm="batch", bias=False)
    stored, own = (
        flatmeter.symmetries(net, bn=bn, input_shape=(1, 8, 8)) for bn in ("eval", "batch")
    )
    assert (stored.bn, own.bn) == ("eval", "batch")
    # Two gains, each with the layer behind it; besides these, both convolutions.
    assert (stored.dim, len(stored.blocks)) == (2, 0)
    assert (own.dim, len(own.blocks)) == (4, 7)
    assert own.kinds == {"scale-invariant": 3, "between layers": 1}
    assert stored.group.exact_error == stored.group.error < 1e-12
    assert own.group.exact_error < 1e-12 < own.group.error < 1e-2


def test_a_subject_brings_its_data_and_a_checkpoint_its_network(tmp_path):
    path = flatmeter.save(
        tmp_path / "a.pt", mlp(64, [5]), name="zoo:mlp", args={"hidden": [5]}, data="digits"
    )
    subject = flatmeter.load(path, samples=10)
    found = flatmeter.symmetries(subject)
    assert (found.name, found.source, found.dim) == (str(path), "digits", 1)
    assert torch.equal(found.inputs, subject.data.inputs[:4].double())
    found = flatmeter.symmetries(path)
    assert (found.name, found.source, found.dim) == (str(path), "random", 1)


def test_other_parameters_can_be_held_fixed():
    found = flatmeter.symmetries(mlp(4, [5, 6], 3), params="linear*")
    assert [g.words for g in found.generators] == [
        "linear0.weight, linear0.bias up; linear1.weight down"
    ]
    with pytest.raises(UsageError, match="no parameter"):
        flatmeter.symmetries(mlp(4, [5], 3), params="none")


def test_inputs_of_any_kind_are_taken_as_the_network_needs_them():
    net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5))
    found = flatmeter.symmetries(net, inputs=torch.randint(5, (2, 6)))
    # Behind the embedding, whose rows share a scale with the first weight, and the hidden one.
    assert found.dim == 2
    assert found.source == "given"
    assert flatmeter.symmetries(mlp(4, [5], 3), inputs=torch.randn(2, 4).half()).dim == 1


def test_fresh_weights_hide_nothing():
    """At zero a branch and every bias are invisible to evaluation."""
    net = resnet(1, 3, [1], 3)
    nn.init.zeros_(net.stage0_0.inner.norm1.weight)
    found = examine(net, name="net", input_shape=(1, 8, 8), fresh=True)
    values = dict(net.named_parameters())
    assert not values["stage0_0.inner.norm1.weight"].any()
    assert found.group.notes == ()
    assert found.group.error > 0  # some rounding, where zeros would show none
