"""Every computation of relative flatness against the definition on dense float64 Hessians."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatmeter.curvature import closed_form, flatness_sums
from flatmeter.curvature.flatness_plan import Computation
from flatmeter.curvature.flatness_run import Options
from flatmeter.curvature.linear_layers import linear_layers
from flatmeter.curvature.relative_flatness import relative_flatness
from flatmeter.risk.custom_loss import FunctionLoss

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")

LABELS = torch.tensor([0, 1, 2, 1, 0, 2, 2])


class Grouped(nn.Module):
    """Groups, stride, dilation, batch-norm, and a head on top."""

    def __init__(self, activation):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 6, 2, padding="same", groups=2)
        self.head = nn.Linear(6, 3)
        self.activation = activation
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = self.activation(self.norm(self.stem(x)))
        return self.head(self.activation(self.grouped(x)).mean((2, 3)))


class Attention(nn.Module):
    """Token-wise layers whose tokens mix afterwards; more tokens than features in places."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(2, 4)
        self.qkv = nn.Linear(4, 12)
        self.conv = nn.Conv1d(4, 3, 2)
        self.head = nn.Linear(3, 3, bias=False)

    def forward(self, x):
        q, k, v = self.qkv(torch.tanh(self.embed(x))).chunk(3, -1)
        h = F.scaled_dot_product_attention(q, k, v)
        return self.head(F.gelu(self.conv(h.transpose(1, 2))).mean(-1))


class Twice(nn.Module):
    """A layer called twice, and one whose weight is used transposed as well."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(5, 4)
        self.again = nn.Linear(4, 4)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        h = torch.tanh(self.encode(x))
        h = torch.tanh(self.again(torch.tanh(self.again(h))))
        return self.head(torch.tanh(h @ self.encode.weight))


class TokenLogits(nn.Module):
    """Logits for every token, classes second as cross-entropy takes them."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(2, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.embed(x))).transpose(1, 2)


def networks():
    torch.manual_seed(0)
    pictures, tokens = torch.randn(7, 1, 7, 7), torch.randn(7, 5, 2)
    many = torch.randint(0, 3, (7, 5))
    many[0, 1] = -100
    return {
        "relu": (Grouped(F.relu), pictures, LABELS),
        "gelu": (Grouped(F.gelu), pictures, LABELS),
        "attention": (Attention(), tokens, LABELS),
        "twice": (Twice(), torch.randn(7, 5), LABELS),
        "token logits": (TokenLogits(), tokens, many),
    }


NETS = networks()


def by_definition(risk, hessian, name, groups=1, bias=False):
    """κ_Tr, κ_max and ‖W‖² Tr H, from the Hessian's blocks between rows and nothing else."""
    weight = dict(risk.module.named_parameters())[f"{name}.weight"].detach()
    W = weight.reshape(len(weight), -1)
    index = torch.arange(risk.space.dim)[risk.space.slice(f"{name}.weight")].reshape(W.shape)
    if bias:
        b = dict(risk.module.named_parameters())[f"{name}.bias"].detach()
        W = torch.cat([W, b[:, None]], 1)
        place = torch.arange(risk.space.dim)[risk.space.slice(f"{name}.bias")]
        index = torch.cat([index, place[:, None]], 1)
    trace = largest = frobenius = 0.0
    per_group = len(W) // groups
    for s in range(len(W)):
        largest += W[s] @ W[s] * torch.linalg.eigvalsh(hessian[index[s]][:, index[s]])[-1]
        frobenius += hessian[index[s], index[s]].sum() * W.square().sum()
        for r in range(len(W)):
            if s // per_group == r // per_group:
                trace += W[s] @ W[r] * hessian[index[s], index[r]].sum()
    return float(trace), float(largest), float(frobenius)


def layer_named(risk, name):
    return next(layer for layer in linear_layers(risk) if layer.name == name)


def computed(risk, name, **options):
    found, refused = relative_flatness(risk, [layer_named(risk, name)], Options(**options))
    assert not refused, refused
    return found[name]


CASES = [
    ("relu", "stem", "auto", Computation.COLUMNS),
    ("relu", "grouped", "auto", Computation.COLUMNS),
    ("relu", "grouped", "exact", Computation.EXACT),
    ("gelu", "grouped", "auto", Computation.EXACT),
    ("gelu", "stem", "auto", Computation.EXACT),
    ("gelu", "head", "auto", Computation.CLOSED),
    ("attention", "embed", "auto", Computation.EXACT),
    ("attention", "qkv", "auto", Computation.EXACT),
    ("attention", "conv", "auto", Computation.EXACT),
    ("attention", "head", "auto", Computation.COLUMNS),
    ("twice", "encode", "auto", Computation.BLOCK),
    ("twice", "again", "auto", Computation.BLOCK),
    ("twice", "again", "exact", Computation.BLOCK),
    ("twice", "head", "auto", Computation.CLOSED),
    ("token logits", "head", "auto", Computation.CLOSED),
    ("token logits", "head", "exact", Computation.EXACT),
    ("token logits", "head", "ggn", Computation.COLUMNS),
    ("token logits", "embed", "auto", Computation.EXACT),
]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("net", "name", "method", "kind"), CASES)
def test_definition(net, name, method, kind, bias, make_risk, dense):
    risk = make_risk(*NETS[net], batch_size=3)
    if bias and f"{name}.bias" not in risk.space.names:
        pytest.skip("no bias")
    found = computed(risk, name, method=method, bias=bias)
    if (net, name) == ("attention", "head"):
        kind = Computation.CLOSED
    assert found.computation is kind
    groups = 2 if name == "grouped" else 1
    expected = by_definition(risk, dense.hessian(risk), name, groups, bias)
    values = [e.value for e in (found.trace, found.maximum, found.frobenius_trace)]
    assert values == pytest.approx(expected, rel=1e-9, abs=1e-14)
    assert found.trace.exact
    assert found.maximum.exact


@pytest.mark.parametrize("name", ["stem", "grouped", "head"])
def test_batch_statistics(name, make_risk, dense):
    risk = make_risk(*NETS["gelu"], bn="batch")
    found = computed(risk, name)
    expected = by_definition(risk, dense.hessian(risk), name, 2 if name == "grouped" else 1)
    # Only what comes before a batch-norm has samples that interact.
    interacts = name == "stem"
    assert (found.computation is Computation.BLOCK) == interacts
    values = [e.value for e in (found.trace, found.maximum, found.frobenius_trace)]
    assert values == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("method", ["closed", "exact", "ggn", "probe"])
def test_no_other_method_where_samples_or_calls_interact(method, make_risk):
    risk = make_risk(*NETS["twice"])
    found, refused = relative_flatness(risk, [layer_named(risk, "again")], Options(method=method))
    assert bool(found) == (method == "exact")
    if not found:
        assert "used 2 times" in refused["again"]


def test_refused_with_the_reason(make_risk):
    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.again = nn.Linear(50, 50)
            self.head = nn.utils.parametrizations.weight_norm(nn.Linear(50, 3))

        def forward(self, x):
            return self.head(torch.tanh(self.again(torch.tanh(self.again(x)))))

    risk = make_risk(Large(), torch.randn(4, 50), LABELS[:4])
    found, refused = relative_flatness(risk, linear_layers(risk), Options())
    assert not found
    reasons = list(refused.values())
    assert "too many for its whole Hessian" in reasons[0]
    assert "computed from other parameters" in reasons[1]


def test_a_frozen_layer_is_measured(make_risk):
    net, x, y = NETS["gelu"]
    risk = make_risk(net, x, y)
    expected = {n: computed(risk, n).trace.value for n in ("grouped", "head")}
    net.head.requires_grad_(False)
    net.grouped.requires_grad_(False)
    try:
        for name, value in expected.items():
            found = computed(make_risk(net, x, y), name)
            assert found.trace.value == pytest.approx(value, rel=1e-12)
    finally:
        net.requires_grad_(True)


@pytest.mark.parametrize("net", ["relu", "gelu", "attention"])
def test_normalized_is_the_trace_of_the_layer_with_normalised_features(net, make_risk):
    """Absorb the scales by hand: divide the features, multiply the weight."""
    model, x, y = NETS[net]
    name = {"relu": "grouped", "gelu": "head", "attention": "qkv"}[net]
    risk = make_risk(model, x, y)
    layer = risk.module.get_submodule(name)
    seen = []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    risk.outputs(risk.theta, risk.example_inputs(7))
    handle.remove()
    if name == "grouped":
        patches = F.unfold(F.pad(seen[0], (0, 1, 0, 1)), 2)
        patches = patches.reshape(7, 2, 8, -1).movedim(-1, 1).flatten(0, 1)
        sigma = patches.std(0, correction=0)
        weight = layer.weight.detach().reshape(2, 3, 8) * sigma[:, None]
        scales = (1 / sigma**2).reshape(2, 1, 8).expand(2, 3, 8).reshape(-1)
        groups = 2
    else:
        sigma = seen[0].flatten(0, -2).std(0, correction=0)
        weight = (layer.weight.detach() * sigma)[None]
        scales = (1 / sigma**2).expand_as(layer.weight).reshape(-1)
        groups = 1

    def loss(w):
        parts = {
            **risk.space.unflatten(risk.theta),
            f"{name}.weight": w.reshape(layer.weight.shape),
        }
        z = risk.forward(parts, risk.example_inputs(7))
        return F.cross_entropy(z, y)

    hessian = torch.autograd.functional.hessian(loss, layer.weight.detach().reshape(-1))
    rows, width = weight.shape[1], weight.shape[2]
    diagonal = hessian.reshape(groups * rows, width, groups * rows, width)
    diagonal = diagonal.diagonal(dim1=1, dim2=3) * scales.reshape(groups * rows, 1, width)
    expected = sum(
        (weight[g] @ weight[g].T * diagonal.sum(-1)[s : s + rows, s : s + rows]).sum()
        for g, s in enumerate(range(0, groups * rows, rows))
    )
    methods = ["exact", "auto"] if net != "gelu" else ["exact", "auto", "ggn"]
    for method in methods:
        found = computed(make_risk(model, x, y, batch_size=3), name, method=method)
        assert found.normalized.value == pytest.approx(float(expected), rel=1e-9)


def test_a_loss_of_ones_own(make_risk):
    net, x, y = NETS["gelu"]
    own = FunctionLoss(lambda z, t: F.cross_entropy(z, t), "own")
    for name in ("head", "grouped"):
        found = computed(make_risk(net, x, y, loss=own), name)
        assert found.computation is Computation.EXACT
        expected = computed(make_risk(net, x, y), name, method="exact")
        assert found.trace.value == pytest.approx(expected.trace.value, rel=1e-9)


@pytest.mark.parametrize(
    ("net", "name", "kind"),
    [
        ("relu", "grouped", Computation.COLUMN_PROBES),
        ("token logits", "head", Computation.COLUMN_PROBES),
        ("gelu", "grouped", Computation.OUTPUT_PROBES),
        ("attention", "embed", Computation.OUTPUT_PROBES),
        ("attention", "qkv", Computation.OUTPUT_PROBES),
    ],
)
def test_probes_hold_their_error(net, name, kind, make_risk):
    risk = make_risk(*NETS[net], batch_size=3)
    exact = computed(risk, name, method="exact")
    deviations = []
    for seed in range(8):
        found = computed(risk, name, method="probe", rtol=1e-9, max_probes=24, seed=seed)
        assert found.computation is kind
        assert not found.trace.converged
        assert found.maximum is None
        for quantity in ("trace", "normalized", "frobenius_trace"):
            one, true = getattr(found, quantity), getattr(exact, quantity)
            deviations.append((one.value - true.value) / one.stderr)
    deviations = torch.tensor(deviations)
    assert float(deviations.abs().max()) < 5
    assert 0.6 < float(deviations.square().mean().sqrt()) < 1.5


def test_probes_do_not_depend_on_batches_and_stop_at_the_tolerance(make_risk):
    few, many = (
        computed(make_risk(*NETS["gelu"], batch_size=b), "grouped", method="probe", max_probes=8)
        for b in (7, 2)
    )
    assert few.trace.value == pytest.approx(many.trace.value, rel=1e-10)
    loose = computed(make_risk(*NETS["relu"]), "stem", method="probe", rtol=0.5)
    assert loose.trace.converged
    assert loose.trace.n < 200
    low, high = loose.trace.interval()
    assert high - low <= loose.trace.value


@pytest.mark.parametrize(("net", "name"), [("relu", "grouped"), ("relu", "head")])
def test_eigenvalues_without_keeping_blocks(net, name, make_risk, monkeypatch):
    risk = make_risk(*NETS[net], batch_size=3)
    kept = computed(risk, name, method="ggn").maximum
    monkeypatch.setattr(flatness_sums, "SUMMED", 0)
    monkeypatch.setattr(flatness_sums, "STORED", 0)
    passed = computed(risk, name, method="ggn", rtol=1e-8).maximum
    assert kept.exact
    assert not passed.exact
    assert passed.converged
    assert passed.value == pytest.approx(kept.value, rel=1e-8)
    if name == "grouped":
        layers = [layer_named(risk, n) for n in ("grouped", "stem")]
        both, _ = relative_flatness(risk, layers, Options())
        assert both["grouped"].maximum is None


def test_pieces_change_the_sums_by_rounding_only(make_risk, monkeypatch):
    risk = make_risk(*NETS["relu"], batch_size=3)
    tokens = make_risk(*NETS["token logits"])
    whole = computed(risk, "grouped"), computed(tokens, "head")
    monkeypatch.setattr(flatness_sums, "GRADIENT_BUDGET", 1)
    monkeypatch.setattr(closed_form, "CHUNK", 12)
    for a, b in zip(whole, (computed(risk, "grouped"), computed(tokens, "head")), strict=True):
        for quantity in ("trace", "maximum", "normalized", "frobenius_trace"):
            one, other = getattr(a, quantity).value, getattr(b, quantity).value
            assert one == pytest.approx(other, rel=1e-12)
