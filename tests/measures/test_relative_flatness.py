"""Relative flatness against published figures, against its definition, and its invariances."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatmeter.errors import NotApplicable, UsageError
from flatmeter.measures.context import Context
from flatmeter.measures.relative_flatness import RelativeFlatness

LABELS = torch.tensor([0, 1, 2, 1, 0, 2])


def fill(net):
    """Parameters by a formula, so that the figures below can be had anywhere."""
    net = net.double()
    with torch.no_grad():
        for name, p in net.named_parameters():
            k = torch.arange(p.numel(), dtype=torch.float64)
            size = 0.2 if name.endswith("bias") else 0.9
            p.copy_((size * torch.sin(1 + 2.3 * k + 0.17 * k**2)).reshape(p.shape))
    return net


def mlp(activation=nn.ReLU):
    net = nn.Sequential(
        nn.Linear(3, 5), activation(), nn.Linear(5, 4), activation(), nn.Linear(4, 3)
    )
    return fill(net)


def vectors():
    n, j = torch.arange(1, 7).double(), torch.arange(1, 4).double()
    return torch.cos(0.7 * n[:, None] * j)


class ConvNet(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.c1 = nn.Conv2d(1, 2, 2)
        self.c2 = nn.Conv2d(2, 3, 2, padding=1)
        self.fc = nn.Linear(3, 3)
        self.activation = activation

    def forward(self, x):
        x = self.activation(self.c2(self.activation(self.c1(x))))
        return self.fc(x.mean((2, 3)))


def images():
    n = torch.arange(1, 7).double()[:, None, None, None]
    i, j = torch.arange(4).double()[:, None], torch.arange(4).double()
    return torch.cos(0.5 * n + 0.9 * i**2 - 0.4 * j * n)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.first(x)).mean(1))


def measured(risk, seed=0, rtol=None, **options):
    context = Context(risk=risk, bn=risk.bn, group=None, seed=seed, rtol=rtol)
    return RelativeFlatness(**options).compute(context)


def values(risk, **options):
    return {q: e.value for q, e in measured(risk, **options).quantities.items()}


@pytest.fixture
def mlp_risk(make_risk):
    def build(activation=nn.ReLU, net=None, x=None, y=LABELS, **options):
        x = vectors() if x is None else x
        return make_risk(net or mlp(activation), x, y, **options)

    return build


ORACLE = {
    (nn.ReLU, "trace"): (0.096843573874, 0.212480394673, 0.060195087145),
    (nn.ReLU, "max"): (0.113944540327, 0.117049247891, 0.050559708490),
    (nn.Tanh, "trace"): (0.332028403071, 0.377310034879, 0.052457318968),
    (nn.Tanh, "max"): (0.305797349983, 0.457273824800, 0.157807446125),
}


@pytest.mark.parametrize(("activation", "quantity"), ORACLE)
def test_layers_of_an_mlp(mlp_risk, activation, quantity):
    risk = mlp_risk(activation)
    loss = {nn.ReLU: 1.083973243900, nn.Tanh: 1.099761741154}[activation]
    assert risk.value() == pytest.approx(loss, rel=1e-10)
    for layer, expected in zip("420", ORACLE[activation, quantity], strict=True):
        found = measured(risk, layer=layer).quantities[quantity]
        assert found.exact
        assert found.value == pytest.approx(expected, rel=1e-9)
        exact = values(risk, layer=layer, method="exact")[quantity]
        assert exact == pytest.approx(expected, rel=1e-9)
    assert values(risk)[quantity] == pytest.approx(ORACLE[activation, quantity][0], rel=1e-9)


def test_gauss_newton_of_an_mlp(mlp_risk):
    for layer, expected in zip("420", ORACLE[nn.ReLU, "trace"], strict=True):
        assert values(mlp_risk(), layer=layer, method="ggn")["trace"] == pytest.approx(expected)
    for layer, expected in (("2", 0.317981178765), ("0", 0.153630203285)):
        found = measured(mlp_risk(nn.Tanh), layer=layer, method="ggn")
        assert found.headline.value == pytest.approx(expected, rel=1e-9)
        assert any("Gauss-Newton matrix, not the Hessian" in note for note in found.notes)


@pytest.mark.parametrize(
    ("activation", "hessian_trace", "normalized", "weighted", "mse", "bce"),
    [
        (
            nn.ReLU,
            0.111428374297,
            0.156091001218,
            0.116494195322,
            0.412311038159,
            0.048739963028,
        ),
        (
            nn.Tanh,
            0.338772986755,
            0.368480802614,
            0.322772742405,
            1.157492821236,
            0.139714610962,
        ),
    ],
)
@pytest.mark.parametrize("method", ["closed", "exact", "ggn"])
def test_last_layer(mlp_risk, method, activation, hessian_trace, normalized, weighted, mse, bce):
    risk = mlp_risk(activation)
    found = values(risk, method=method)
    size = float(risk.module[4].weight.detach().square().sum())
    assert found["frobenius_trace"] == pytest.approx(size * hessian_trace, rel=1e-9)
    assert found["normalized"] == pytest.approx(normalized, rel=1e-9)
    loss = {"name": "cross_entropy", "weight": [1, 2, 0.5]}
    found = values(mlp_risk(activation, loss=loss), method=method)
    assert found["trace"] == pytest.approx(weighted, rel=1e-9)
    n, c = torch.arange(6).double()[:, None], torch.arange(3).double()
    y = torch.sin(n + 2 * c)
    found = values(mlp_risk(activation, y=y, loss="mse"), method=method)
    assert found["trace"] == pytest.approx(mse, rel=1e-9)
    found = values(mlp_risk(activation, y=(y > 0).double(), loss="bce"), method=method)
    assert found["trace"] == pytest.approx(bce, rel=1e-9)


def test_label_smoothing_changes_nothing(mlp_risk):
    smooth = mlp_risk(loss={"name": "cross_entropy", "label_smoothing": 0.1})
    assert values(smooth) == pytest.approx(values(mlp_risk()), rel=1e-12)


def test_constant_features_are_left_out_and_counted(mlp_risk):
    assert any("leaves out 2 constant" in note for note in measured(mlp_risk()).notes)
    assert not any("leaves out" in note for note in measured(mlp_risk(nn.Tanh)).notes)


@pytest.mark.parametrize("method", ["closed", "exact", "ggn"])
def test_bias_included(mlp_risk, method):
    found = values(mlp_risk(), bias=True, method=method)
    assert found["trace"] == pytest.approx(0.709211232524, rel=1e-9)


CONV = {
    F.relu: {"c1": 0.023073775407, "c2": 0.094041984114, "fc": 0.071604879014},
    torch.tanh: {"c1": 0.043428140682, "c2": 0.008779237778, "fc": 0.012557288192},
}
AFFINE = {
    F.relu: {"c1": 0.096589066340, "c2": 0.049952053796},
    torch.tanh: {"c1": -0.025013283900, "c2": 0.029101759622},
}


@pytest.mark.parametrize("activation", CONV)
def test_convolutions(make_risk, activation):
    risk = make_risk(fill(ConvNet(activation)), images(), LABELS)
    for layer, expected in CONV[activation].items():
        assert values(risk, layer=layer)["trace"] == pytest.approx(expected, rel=1e-9)
        exact = values(risk, layer=layer, method="exact")
        assert exact["trace"] == pytest.approx(expected, rel=1e-9)
    for layer, expected in AFFINE[activation].items():
        found = values(risk, layer=layer, convolution="affine")
        assert found["trace"] == pytest.approx(expected, rel=1e-9)
    # The figure was checked against the dense Hessian of c2's weight.
    if activation is torch.tanh:
        found = values(risk, layer="c2")["frobenius_trace"]
        size = float(risk.module.c2.weight.detach().square().sum())
        assert found / size == pytest.approx(-0.000680846464, rel=1e-6)


def test_shared_by_tokens(make_risk):
    x = vectors()
    net = fill(Tokens())
    risk = make_risk(net, torch.stack([x, 0.5 * x.flip(0)], 1), LABELS)
    found = measured(risk, layer="first")
    assert found.headline.value == pytest.approx(0.132620355812, rel=1e-9)


def test_two_classes_in_closed_form(make_risk):
    net = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
    risk = make_risk(net, torch.tensor([[3.0, 4.0]]), torch.tensor([0]))
    assert values(risk)["trace"] == pytest.approx(7.6475533337e-5, rel=1e-9)


def test_all_layers(mlp_risk):
    found = measured(mlp_risk(), layer="all")
    assert found.headline.value == pytest.approx(sum(ORACLE[nn.ReLU, "trace"]), rel=1e-9)
    mean = found.quantities["trace_mean"].value
    assert mean == pytest.approx(sum(ORACLE[nn.ReLU, "trace"]) / 3, rel=1e-9)
    by_layer = {p.scope: p.estimate.value for p in found.parts if p.quantity == "max"}
    assert list(by_layer) == ["0", "2", "4"]
    assert list(by_layer.values())[::-1] == pytest.approx(ORACLE[nn.ReLU, "max"], rel=1e-9)


def test_all_layers_by_probes(mlp_risk):
    found = measured(mlp_risk(nn.Tanh), layer="all", method="probe", max_probes=16, rtol=1e-6)
    assert not found.headline.converged
    assert found.headline.n == 16
    errors = [p.estimate.stderr for p in found.parts if p.quantity == "trace"]
    assert found.headline.stderr == pytest.approx(sum(errors))
    true = sum(ORACLE[nn.Tanh, "trace"])
    assert abs(found.headline.value - true) < 4 * found.headline.stderr
    assert "max" not in found.quantities
    assert any("max is too costly" in note for note in found.notes)


def test_weight_decay_is_left_out(mlp_risk):
    assert values(mlp_risk(weight_decay=0.1)) == values(mlp_risk())


def rescaled(net, change):
    with torch.no_grad():
        change(net)
    return net


def scale_layers(net):
    net[2].weight *= 3
    net[2].bias *= 3
    net[4].weight /= 3


def scale_rows(net):
    c = torch.tensor([0.3, 2, 5, 0.1]).double()
    net[2].weight *= c[:, None]
    net[2].bias *= c
    net[4].weight /= c


def shift_classes(net):
    net[4].weight += torch.tensor([2.0, -1, 0.5, 3]).double()


def permute(net):
    order = torch.tensor([2, 0, 3, 1])
    net[2].weight.copy_(net[2].weight[order])
    net[2].bias.copy_(net[2].bias[order])
    net[4].weight.copy_(net[4].weight[:, order])


EVERY = {"trace", "max", "normalized", "frobenius_trace"}


@pytest.mark.parametrize(
    ("layer", "change", "same"),
    [
        ("4", scale_layers, EVERY),
        ("2", scale_layers, EVERY),
        ("2", scale_rows, EVERY - {"frobenius_trace"}),
        ("4", scale_rows, {"normalized"}),
        ("4", shift_classes, {"trace", "normalized"}),
        ("4", permute, EVERY),
        ("2", permute, EVERY),
    ],
)
@pytest.mark.parametrize("method", ["auto", "exact"])
def test_invariance(mlp_risk, layer, change, same, method):
    before = values(mlp_risk(), layer=layer, method=method)
    after = values(mlp_risk(net=rescaled(mlp(), change)), layer=layer, method=method)
    for quantity in EVERY:
        equal = after[quantity] == pytest.approx(before[quantity], rel=1e-10)
        assert equal == (quantity in same), quantity


def test_rotated_features(make_risk):
    torch.manual_seed(0)
    x = torch.randn(20, 4).double()
    y = torch.randint(0, 3, (20,))
    Q = torch.linalg.qr(torch.randn(4, 4).double()).Q
    net = nn.Linear(4, 3).double()
    before = values(make_risk(net, x, y))
    with torch.no_grad():
        net.weight.copy_(net.weight @ Q.T)
    after = values(make_risk(net, x @ Q.T, y))
    for quantity in EVERY:
        equal = after[quantity] == pytest.approx(before[quantity], rel=1e-10)
        assert equal == (quantity != "normalized"), quantity


@pytest.mark.parametrize("layer", ["4", "2"])
@pytest.mark.parametrize("method", ["auto", "exact"])
def test_data(mlp_risk, layer, method):
    options = {"layer": layer, "method": method}
    once = values(mlp_risk(nn.Tanh), **options)
    split = values(mlp_risk(nn.Tanh, batch_size=4), **options)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    permuted = values(mlp_risk(nn.Tanh, x=vectors()[order], y=LABELS[order]), **options)
    twice = values(mlp_risk(nn.Tanh, x=vectors().repeat(2, 1), y=LABELS.repeat(2)), **options)
    for other in (split, permuted, twice):
        assert other == pytest.approx(once, rel=1e-11)


@pytest.mark.parametrize("layer", ["4", "2", "0"])
def test_float32(mlp_risk, layer):
    half, full = (
        values(mlp_risk(nn.Tanh, dtype=d), layer=layer) for d in (torch.float32, torch.float64)
    )
    assert half == pytest.approx(full, rel=1e-5)


def test_names(mlp_risk):
    assert values(mlp_risk(), layer="2") == values(mlp_risk(), layer="2.weight")
    with pytest.raises(UsageError, match="no linear layer"):
        measured(mlp_risk(), layer="7")


def test_a_layer_may_be_named_by_a_number():
    """As those of a Sequential are, which YAML and --set take for numbers."""
    assert RelativeFlatness.Settings(layer=2).layer == "2"


def test_networks_without_a_linear_layer(make_risk):
    class Convolutional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 3)

        def forward(self, x):
            return torch.tanh(self.conv(x)).mean((2, 3))

    risk = make_risk(Convolutional().double(), images(), LABELS)
    with pytest.raises(NotApplicable, match="no linear layer"):
        measured(risk)
    assert measured(risk, layer="conv").headline.exact
    with pytest.raises(NotApplicable, match="no closed form"):
        measured(risk, layer="conv", method="closed")
