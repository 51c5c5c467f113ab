"""Random inputs of a shape that the network takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flatmeter.errors import UsageError
from flatmeter.model.example_inputs import example_inputs
from flatmeter.model.zoo import cnn, mlp


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRU(5, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.cell(x)[0])


def flattened():
    """Takes 28 by 28 pixels and no others."""
    return nn.Sequential(nn.Conv2d(1, 2, 5), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(288, 3))


class Fixed(nn.Module):
    """Says the size of its images, and takes no other."""

    def __init__(self):
        super().__init__()
        self.image_size, self.conv = 20, nn.Conv2d(3, 4, 5)

    def forward(self, x):
        assert x.shape[-1] == 20
        return self.conv(x)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: mlp(7, [3], 2), (7,)),
        (lambda: cnn(2, [3]), (2, 224, 224)),
        (flattened, (1, 28, 28)),
        (lambda: nn.Conv1d(2, 3, 5), (2, 224)),
        (lambda: nn.Conv3d(2, 3, 3), (2, 32, 32, 32)),
        (Recurrent, (16, 5)),
        (Fixed, (3, 20, 20)),
    ],
)
def test_the_first_shape_that_the_network_takes(build, shape):
    net = build().eval()
    inputs = example_inputs(net, count=3)
    assert inputs.shape == (3, *shape)
    assert inputs.dtype == torch.float32
    assert inputs.std() > 0.5
    torch.testing.assert_close(inputs, example_inputs(net, count=3))
    assert not torch.equal(inputs, example_inputs(net, count=3, seed=1))


def test_tokens_where_the_network_embeds_them():
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
    inputs = example_inputs(net, (5,))
    assert inputs.shape == (4, 5)
    assert inputs.dtype == torch.long
    assert set(inputs.flatten().tolist()) <= set(range(9))
    assert example_inputs(net).shape == (4, 16)


def test_a_float64_network_is_tried_in_its_own_dtype():
    assert example_inputs(mlp(7, [3], 2).double()).shape == (4, 7)


def test_what_the_network_does_not_take_is_refused_with_its_own_words():
    with pytest.raises(UsageError, match=r"on inputs of shape \[8\] it fails: mat1 and mat2") as e:
        example_inputs(mlp(7, [3], 2), (8,))
    assert e.value.where == "--input-shape"
    with pytest.raises(UsageError, match="is not known; on inputs of shape"):
        example_inputs(nn.Sequential(nn.Flatten(), nn.Linear(7, 3), nn.Linear(2, 2)))
    with pytest.raises(UsageError, match=r"is not known\ngive"):
        example_inputs(nn.Identity())
