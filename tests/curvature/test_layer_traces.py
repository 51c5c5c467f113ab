"""Layer traces against dense matrices, on networks that cover every ghost rule and fallback."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatmeter.curvature.ghost import eligible, exact_diagonal
from flatmeter.curvature.layer_traces import layer_traces
from flatmeter.risk.custom_loss import FunctionLoss


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding="same", groups=4)
        self.pointwise = nn.Conv2d(4, 6, 1, stride=2, bias=False)
        self.short = nn.Conv2d(4, 6, 1, stride=2)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        y = self.pointwise(F.relu(self.depthwise(x)))
        y += self.short(x)
        return self.head(F.relu_(y).mean((2, 3)))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(6, 4)
        self.decode_bias = nn.Parameter(torch.randn(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        h = F.relu(self.encode(x))
        return self.head(F.relu(F.linear(h, self.encode.weight.T, self.decode_bias)))


class Tokens(nn.Module):
    """Token-wise layers, layer-norm, attention and a convolution in one dimension."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.qkv = nn.Linear(4, 12)
        self.conv = nn.Conv1d(4, 4, 3, padding=1, dilation=1)
        self.group = nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        h = self.embed(x)
        q, k, v = self.qkv(self.norm(h)).chunk(3, -1)
        h = h + F.scaled_dot_product_attention(q, k, v)
        h = self.group(self.conv(h.transpose(1, 2)))
        return self.head(F.gelu(h).mean(-1))


class Words(nn.Module):
    """Token ids with padding and repeats, and a scale by the root mean square."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 4, padding_idx=-1)
        self.norm = nn.RMSNorm(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.norm(self.embed(x))).mean(1))


class Ratings(nn.Module):
    """One token of each sample for each of two embeddings."""

    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Embedding(6, 4, padding_idx=0), nn.Embedding(6, 3)
        self.head = nn.Linear(7, 3)

    def forward(self, x):
        found = torch.cat([self.user(x[:, 0]), self.item(x[:, 1])], 1)
        return self.head(torch.tanh(found))


class Volumes(nn.Module):
    """Convolutions in three dimensions, and transposed ones with groups, strides and dilation."""

    def __init__(self):
        super().__init__()
        self.solid = nn.Conv3d(1, 2, 2, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.line = nn.ConvTranspose1d(4, 2, 2, dilation=2, bias=False)
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        h = torch.relu(self.solid(x)).flatten(1, 2)[:, :4]
        h = torch.tanh(self.up(h)).mean(3)
        return self.head(self.line(h).mean(2))


class SequenceFirst(nn.Module):
    """The first dimension inside counts positions."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(2, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        h = torch.relu(self.embed(x.transpose(0, 1)))
        return self.head(h.mean(0))


def nets():
    torch.manual_seed(0)
    y = torch.tensor([0, 1, 2, 1, 0, 2, 2])
    images, vectors, tokens = torch.randn(7, 1, 6, 6), torch.randn(7, 6), torch.randn(7, 5, 3)
    mlp = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    gelu = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.LayerNorm(5), nn.Linear(5, 3))
    residual = Residual()
    residual.norm.running_mean.normal_()
    residual.norm.running_var.uniform_(0.5, 2)
    return {
        "mlp": (mlp, vectors, y),
        "gelu": (gelu, vectors, y),
        "residual": (residual, images, y),
        "tied": (Tied(), vectors, y),
        "tokens": (Tokens(), tokens, y),
        "words": (Words(), torch.randint(0, 6, (7, 5)), y),
        "ratings": (Ratings(), torch.randint(0, 6, (7, 2)), y),
        "volumes": (Volumes(), torch.randn(7, 1, 4, 3, 4), y),
        "sequence first": (SequenceFirst(), torch.randn(7, 7, 2), y),
    }


NETS = nets()


def block_traces(risk, matrix):
    parts = matrix.diagonal().split(risk.space.sizes)
    return np.array([float(p.sum()) for p in parts])


@pytest.mark.parametrize(
    "name", ["mlp", "gelu", "residual", "tokens", "words", "ratings", "volumes", "sequence first"]
)
def test_exact_gauss_newton_traces(name, make_risk, dense):
    risk = make_risk(*NETS[name], batch_size=3)
    traces = layer_traces(risk)
    assert all(e.exact for e in traces.estimates.values())
    expected = block_traces(risk, dense.gauss_newton(risk))
    np.testing.assert_allclose(traces.values, expected, rtol=1e-9, atol=1e-15)
    assert traces.total.value == pytest.approx(expected.sum(), rel=1e-9)


@pytest.mark.parametrize("name", list(NETS))
def test_exact_diagonal(name, make_risk, dense):
    risk = make_risk(*NETS[name], batch_size=4)
    names = eligible(risk).names
    diagonal = exact_diagonal(risk, names)
    expected = risk.space.unflatten(dense.gauss_newton(risk).diagonal().contiguous())
    for n in names:
        torch.testing.assert_close(diagonal[n], expected[n], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", list(NETS))
def test_the_certificate_is_never_wrong(name, make_risk, dense):
    risk = make_risk(*NETS[name])
    traces = layer_traces(risk)
    hessian = dense.hessian(risk)
    blocks = block_traces(risk, hessian)
    for i, n in enumerate(risk.space.names):
        if traces.exact_hessian[n]:
            assert traces.values[i] == pytest.approx(blocks[i], rel=1e-9, abs=1e-14)


def test_what_is_certified(make_risk):
    for name in ("mlp", "residual"):
        assert all(layer_traces(make_risk(*NETS[name])).exact_hessian.values())
    certified = layer_traces(make_risk(*NETS["gelu"])).exact_hessian
    assert certified["3.weight"]
    assert certified["3.bias"]
    assert certified["2.weight"]  # a layer-norm's own scale and what follows are linear
    assert not certified["0.weight"]


def test_what_the_ghost_method_must_leave_to_probes(make_risk):
    assert eligible(make_risk(*NETS["tied"])).names == {
        "decode_bias",
        "head.weight",
        "head.bias",
        "encode.bias",
    }
    assert not eligible(make_risk(*NETS["residual"], bn="batch")).names
    words = Words()
    words.embed.scale_grad_by_freq = True
    assert "embed.weight" not in eligible(make_risk(words, *NETS["words"][1:])).names


@pytest.mark.parametrize(
    ("name", "curvature", "options"),
    [
        ("gelu", "hessian", {}),
        ("tied", "ggn", {}),
        ("tied", "hessian", {}),
        ("residual", "ggn", {"bn": "batch"}),
        ("residual", "hessian", {"bn": "batch"}),
        ("tokens", "hessian", {}),
    ],
)
def test_probed_traces_hold_their_error(name, curvature, options, make_risk, dense):
    risk = make_risk(*NETS[name], **options)
    traces = layer_traces(risk, curvature=curvature, rtol=0.0, max_probes=400)
    matrix = dense.hessian(risk) if curvature == "hessian" else dense.gauss_newton(risk)
    expected = block_traces(risk, matrix)
    for value, (n, estimate) in zip(expected, traces.estimates.items(), strict=True):
        if estimate.exact:
            assert estimate.value == pytest.approx(value, rel=1e-9, abs=1e-13), n
        else:
            assert abs(estimate.value - value) < 4.5 * estimate.stderr, n
    total = traces.total
    assert abs(total.value - expected.sum()) < 4.5 * total.stderr
    assert total.stderr < 0.1 * abs(expected).sum()


def test_the_gauss_newton_probes_are_never_negative(make_risk):
    traces = layer_traces(make_risk(*NETS["tied"]), rtol=0.0, max_probes=20)
    assert (traces.probes >= 0).all()


def test_stops_on_the_interval(make_risk):
    risk = make_risk(*NETS["tied"])
    traces = layer_traces(risk, rtol=0.05)
    low, high = traces.total.interval()
    assert traces.converged
    assert (high - low) / 2 <= 0.05 * traces.total.value
    assert not layer_traces(risk, rtol=1e-6, max_probes=20).converged


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
def test_batches_change_the_traces_by_rounding_only(curvature, make_risk):
    for name in ("tied", "gelu"):
        few, many = (
            layer_traces(
                make_risk(*NETS[name], batch_size=b), curvature=curvature, max_probes=24, rtol=0.0
            )
            for b in (7, 2)
        )
        if curvature == "hessian" or name == "gelu":
            np.testing.assert_allclose(few.values, many.values, rtol=1e-10)


@pytest.mark.parametrize(
    "loss",
    [
        "mse",
        "bce",
        {"name": "cross_entropy", "weight": [1, 2, 0.5], "label_smoothing": 0.1},
        FunctionLoss(lambda z, y: F.cross_entropy(z, y), "own"),
    ],
)
def test_other_losses(loss, make_risk, dense):
    net, x, y = NETS["mlp"]
    if loss in ("mse", "bce"):
        y = F.one_hot(y, 3).double()
    risk = make_risk(net, x, y, loss=loss, batch_size=3)
    traces = layer_traces(risk)
    np.testing.assert_allclose(
        traces.values, block_traces(risk, dense.gauss_newton(risk)), rtol=1e-9
    )


def test_many_classes_are_sampled_with_an_honest_error(make_risk, dense):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 120))
    x, y = torch.randn(40, 4), torch.randint(0, 120, (40,))
    expected = block_traces(r := make_risk(net, x, y), dense.gauss_newton(r))
    inside = 0
    for seed in range(20):
        traces = layer_traces(r, seed=seed)
        low, high = traces.total.interval(0.95)
        inside += low <= expected.sum() <= high
        assert abs(traces.values - expected).max() < 0.2 * expected.max()
    assert inside >= 16


def test_a_saturated_net_keeps_non_negative_traces_in_float32(make_risk):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(20, 6)
    with torch.no_grad():
        net[2].weight *= 400
        net[2].bias *= 400
        top = net(x).topk(2, dim=1)
    sure = top.values[:, 0] - top.values[:, 1] > 20
    x, y = x[sure], top.indices[sure, 0]
    risk = make_risk(net, x, y, dtype=torch.float32)
    traces, exact = layer_traces(risk), layer_traces(make_risk(net, x, y))
    assert len(x) > 5
    assert risk.value() < 1e-8
    assert (exact.values > 0).all()
    np.testing.assert_allclose(traces.values, exact.values, rtol=1e-2)


class FirstPosition(nn.Module):
    """Sequence first inside, and only its first position reaches the outputs."""

    def __init__(self):
        super().__init__()
        self.token = nn.Linear(4, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(F.relu(self.token(x.transpose(0, 1)))[0])


def test_as_many_positions_as_samples_are_looked_at_are_no_samples(make_risk, dense):
    # With three positions and three samples, cotangents of the first sample look separate.
    for positions in (2, 3, 4, 5):
        labels = torch.arange(6) % 3
        risk = make_risk(FirstPosition(), torch.randn(6, positions, 4), labels)
        traces, expected = layer_traces(risk), block_traces(risk, dense.gauss_newton(risk))
        np.testing.assert_allclose(traces.values, expected, rtol=1e-9)


def test_many_classes_hold_the_error_of_the_sum(make_risk, dense):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 120))
    risk = make_risk(net, 3 * torch.randn(3, 4), torch.tensor([0, 50, 119]))
    expected = float(dense.gauss_newton(risk).diagonal().sum())
    totals = [layer_traces(risk, seed=seed, max_probes=32, rtol=0.0).total for seed in range(40)]
    deviations = np.array([(t.value - expected) / t.stderr for t in totals])
    # All tensors share their columns; errors that counted as independent would be 2.3 times less.
    assert 0.7 < deviations.std() < 1.4
    assert not any(t.converged for t in totals)
    settled = layer_traces(risk, rtol=0.1).total
    low, high = settled.interval()
    assert settled.converged
    assert (high - low) / 2 <= 0.1 * settled.value


def test_one_probe_leaves_the_error_unknown(make_risk):
    total = layer_traces(make_risk(*NETS["tied"]), max_probes=1).total
    assert not total.exact
    assert not total.converged
    assert total.stderr == float("inf")


class Unseen(nn.Module):
    """Layers that run and that the loss does not see."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(6, 5)
        self.aux = nn.Linear(5, 3)
        self.dropped = nn.Conv1d(1, 2, 2)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        self.dropped(x.unsqueeze(1))
        h = torch.relu(self.trunk(x))
        return self.head(h), self.aux(h)


class Detached(Unseen):
    def forward(self, x):
        return self.head(torch.relu(self.trunk(x)).detach())


@pytest.mark.parametrize("kind", [Unseen, Detached])
@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
def test_what_the_loss_does_not_see_has_no_curvature(kind, curvature, make_risk, dense):
    torch.manual_seed(0)
    _, vectors, y = NETS["mlp"]
    risk = make_risk(kind(), vectors, y)
    traces = layer_traces(risk, curvature=curvature)
    expected = block_traces(risk, dense.hessian(risk))
    np.testing.assert_allclose(traces.values, expected, rtol=1e-9, atol=1e-14)
    unseen = {"aux.weight", "aux.bias", "dropped.weight", "dropped.bias"}
    if kind is Detached:
        unseen |= {"trunk.weight", "trunk.bias"}
    for name in unseen:
        assert traces.estimates[name].value == 0.0


@pytest.mark.parametrize("batch_size", [1, 7, 50, None])
def test_probed_traces_do_not_follow_the_batch_size(batch_size, make_risk):
    torch.manual_seed(0)
    x, y = torch.randn(300, 6), torch.arange(300) % 3
    whole, split = (make_risk(Tied(), x, y, batch_size=b) for b in (300, batch_size))
    split.theta = whole.theta
    expected, found = (layer_traces(r, max_probes=24) for r in (whole, split))
    assert len(expected.probes)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-9)


def test_probes_are_the_same_however_many_are_multiplied_at_once(make_risk, monkeypatch):
    from flatmeter.curvature import trace_probes

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    risk = make_risk(net.double(), torch.randn(6, 3).double(), torch.arange(6) % 2)
    draw = trace_probes.hessian_probes(risk, 0, list(risk.space.names), frozenset())
    whole = draw(0, 5)
    monkeypatch.setattr(trace_probes, "TOGETHER", 2 * risk.space.dim)
    assert draw(0, 5) == pytest.approx(whole, rel=1e-12)
