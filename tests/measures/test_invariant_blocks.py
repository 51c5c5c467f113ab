import pytest
import torch
from torch import nn

from flatmeter.errors import NotApplicable
from flatmeter.measures import invariant_blocks as module
from flatmeter.measures.bn_sharpness import BNSharpness
from flatmeter.measures.context import Context
from flatmeter.measures.invariant_blocks import invariant_blocks
from flatmeter.measures.spherical_sharpness import SphericalSharpness
from flatmeter.symmetry.blocks import Block
from flatmeter.symmetry.find import find_group

MEASURES = [BNSharpness, SphericalSharpness]


def mlp(norm=lambda: nn.BatchNorm1d(5)):
    torch.manual_seed(0)
    layers = nn.Linear(6, 5), norm(), nn.ReLU(), nn.Linear(5, 4), norm_of(norm, 4), nn.ReLU()
    return nn.Sequential(*layers, nn.Linear(4, 3)).double()


def norm_of(norm, width):
    made = norm()
    return type(made)(width) if not isinstance(made, nn.Identity) else made


def conv():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 3),
    ).double()


@pytest.fixture
def context(make_risk):
    def build(net, bn="batch", shape=(6,), **options):
        torch.manual_seed(1)
        risk = make_risk(net, torch.randn(60, *shape), torch.randint(0, 3, (60,)), bn=bn, **options)
        group = lambda: find_group(risk.module, risk.example_inputs(), risk.space.names)  # noqa: E731
        return Context(risk, bn=risk.bn, group=group)

    return build


def covered(context, blocks, name):
    part = context.risk.space.slice(name)
    return sorted(
        tuple((b.indices - part.start).tolist())
        for b in blocks
        if part.start <= int(b.indices[0]) < part.stop
    )


def test_rows_before_batch_norm_and_no_bias(context):
    ready = context(mlp())
    blocks, notes = invariant_blocks(ready, "test")
    assert notes == ()
    assert covered(ready, blocks, "0.weight") == [tuple(range(6 * i, 6 * i + 6)) for i in range(5)]
    assert len(blocks) == 9
    assert covered(ready, blocks, "0.bias") == []
    assert covered(ready, blocks, "6.weight") == []


def test_filters_of_plain_and_depthwise_convolutions(context):
    ready = context(conv(), shape=(2, 4, 4))
    blocks, _ = invariant_blocks(ready, "test")
    assert [len(b.indices) for b in blocks] == [18] * 4 + [9] * 4


def test_layer_norm_frees_weight_and_bias_together_in_any_mode(context):
    for bn in ("eval", "batch"):
        ready = context(mlp(lambda: nn.LayerNorm(5)), bn=bn)
        blocks, _ = invariant_blocks(ready, "test")
        assert sorted(len(b.indices) for b in blocks) == [24, 35]


@pytest.mark.parametrize("kind", MEASURES)
def test_measures_run_on_layer_norm(context, kind):
    found = kind().compute(context(mlp(lambda: nn.LayerNorm(5)), bn="eval"))
    assert found.headline.converged
    assert found.headline.value > 0


@pytest.mark.parametrize("kind", MEASURES)
def test_no_number_where_the_measure_has_no_meaning(context, kind):
    with pytest.raises(NotApplicable, match="no weight of this network"):
        kind().compute(context(mlp(nn.Identity)))
    with pytest.raises(NotApplicable, match="stored statistics"):
        kind().compute(context(mlp(), bn="eval"))


def test_what_evaluation_does_not_confirm_is_left_out(context, monkeypatch):
    ready = context(mlp())
    head = ready.risk.space.slice("6.weight").start
    wrong = Block("6.weight[0]", torch.arange(head, head + 4))
    right = Block("0.weight[0]", torch.arange(6))
    monkeypatch.setattr(module, "scale_invariant_blocks", lambda group, space: (right, wrong))
    blocks, notes = invariant_blocks(ready, "test")
    assert blocks == (right,)
    assert "6.weight[0]" in notes[0]
    monkeypatch.setattr(module, "scale_invariant_blocks", lambda group, space: (wrong,))
    with pytest.raises(NotApplicable, match="evaluation confirms none"):
        invariant_blocks(ready, "test")


class Auxiliary(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.trunk, self.norm = nn.Linear(4, 5, bias=False), norm
        self.aux, self.head = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x):
        h = torch.relu(self.norm(self.trunk(x)))
        return self.head(h), self.aux(h)


def test_a_head_that_the_loss_does_not_see_is_no_invariant_block(make_risk):
    x, y = torch.randn(12, 4), torch.arange(12) % 3
    for norm, rows in ((nn.Identity(), 0), (nn.BatchNorm1d(5), 5)):
        risk = make_risk(Auxiliary(norm), x, y, bn="batch")
        group = find_group(risk.module, risk.example_inputs(), risk.space.names)
        context = Context(risk=risk, bn=risk.bn, group=lambda group=group: group)
        if rows:
            blocks, _ = invariant_blocks(context, "T")
            assert [b.name for b in blocks] == [f"trunk.weight[{i}]" for i in range(rows)]
        else:
            with pytest.raises(NotApplicable, match="no weight of this network"):
                invariant_blocks(context, "T")
