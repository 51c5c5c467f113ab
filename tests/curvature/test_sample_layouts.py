"""Attention and layers that see the samples elsewhere than first, against dense matrices."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flatmeter.curvature.flatness_run import Options
from flatmeter.curvature.ghost import eligible, exact_diagonal, exact_traces
from flatmeter.curvature.linear_layers import linear_layers
from flatmeter.curvature.relative_flatness import relative_flatness
from flatmeter.curvature.sample_dimension import Layout, sample_layouts


class Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True, **options)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        own = self.attend.kdim or 4
        keys = x if own == 4 else x[..., :own]
        return self.head(self.attend(x, keys, keys)[0].mean(1))


class Encoder(nn.Module):
    """Token embeddings, positions first, an encoder layer, tokens flattened before the head."""

    def __init__(self, *, norm_first: bool):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.encode = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, norm_first=norm_first)
        self.norm = nn.RMSNorm(4)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens):
        h = self.encode(self.embed(tokens.T))
        flat = self.norm(h).transpose(0, 1).reshape(-1, 4)
        return self.head(flat).unflatten(0, tokens.shape).mean(1)


class ClassToken(nn.Module):
    """An encoder layer, samples first, of which the head sees one position only."""

    def __init__(self, position: int):
        super().__init__()
        self.encode = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
        self.head = nn.Linear(4, 3)
        self.position = position

    def forward(self, x):
        return self.head(self.encode(x)[:, self.position])


class VisionBlock(nn.Module):
    """Patches, a fused projection, scaled dot-product attention, residual connections."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(1, 4, 2, stride=2)
        self.before, self.after = nn.LayerNorm(4), nn.LayerNorm(4)
        self.qkv, self.project = nn.Linear(4, 12, bias=False), nn.Linear(4, 4)
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        h = self.patch(x).flatten(2).transpose(1, 2)
        n, t, _ = h.shape
        q, k, v = self.qkv(self.before(h)).view(n, t, 3, 2, 2).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, 4)
        h = h + self.project(a)
        h = h + self.down(F.relu(self.up(self.after(h))))
        return self.head(h.mean(1))


class Rows(nn.Module):
    """A weight with a row for each input, as GPT-2 has it, and one that has a row for each output.

    Both at positions that are flattened, then both for whole samples.
    """

    def __init__(self, *, transposed: bool = True):
        super().__init__()
        self.transposed = transposed
        self.up, self.up_bias = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(5))
        self.head, self.head_bias = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(3))

    def apply_matrix(self, x, weight, bias):
        if self.transposed:
            return torch.addmm(bias, x, weight)
        return F.linear(x, weight, bias)

    def forward(self, x):
        h = self.apply_matrix(x.reshape(-1, 4), self.up, self.up_bias).view(*x.shape[:2], 5)
        return self.apply_matrix(torch.tanh(h).mean(1), self.head, self.head_bias)


G = torch.Generator().manual_seed(0)
TOKENS = torch.randint(0, 5, (5, 4), generator=G)
VECTORS = torch.randn(5, 4, 4, generator=G).double()
IMAGES = torch.randn(5, 1, 4, 4, generator=G).double()
NETS = {
    "packed": (lambda: Attention(), VECTORS, set()),
    "no bias": (lambda: Attention(bias=False), VECTORS, set()),
    "separate": (lambda: Attention(kdim=3, vdim=3), VECTORS, {"attend.in_proj_bias"}),
    "encoder": (lambda: Encoder(norm_first=False), TOKENS, set()),
    "encoder, norm first": (lambda: Encoder(norm_first=True), TOKENS, set()),
    "class token": (lambda: ClassToken(0), VECTORS, set()),
    "last token": (lambda: ClassToken(-1), VECTORS, set()),
    "rows for inputs": (lambda: Rows(), VECTORS, set()),
    "vision": (lambda: VisionBlock(), IMAGES, set()),
}


@pytest.fixture(params=NETS)
def case(request, make_risk):
    make, x, missing = NETS[request.param]
    torch.manual_seed(1)
    return make_risk(make().double(), x, torch.arange(5) % 3, batch_size=3), missing


def test_traces_and_diagonal_are_exact(case, dense):
    risk, missing = case
    admitted = eligible(risk).names
    assert set(risk.space.names) - admitted == missing
    diagonal = dense.gauss_newton(risk).diagonal()
    traces, entries = exact_traces(risk, admitted), exact_diagonal(risk, admitted)
    for name in admitted:
        own = diagonal[risk.space.slice(name)]
        assert traces[name] == pytest.approx(float(own.sum()), rel=1e-9, abs=1e-13), name
        assert torch.allclose(entries[name].flatten(), own, rtol=1e-8, atol=1e-12), name


def test_certificates_hold(case, dense):
    risk, _ = case
    certified = eligible(risk).certified
    assert {"head.weight", "head"} & certified
    hessian, gauss_newton = dense.hessian(risk), dense.gauss_newton(risk)
    for name in certified:
        own = risk.space.slice(name)
        assert torch.allclose(hessian[own, own], gauss_newton[own, own], atol=1e-10), name


def test_a_weight_with_rows_for_inputs_is_the_transpose_of_one_with_rows_for_outputs(make_risk):
    """Relative flatness: of the first layer by its definition, of the last in closed form."""
    torch.manual_seed(1)
    net, other = Rows().double(), Rows(transposed=False).double()
    for name in ("up", "head"):
        setattr(other, name, nn.Parameter(getattr(net, name).detach().T.contiguous()))
        getattr(other, f"{name}_bias").data = getattr(net, f"{name}_bias").data.clone()
    found = []
    for module in (net, other):
        risk = make_risk(module, VECTORS, torch.arange(5) % 3)
        layers = linear_layers(risk)
        assert [layer.name for layer in layers] == ["up", "head"]
        assert [layer.inseparable is None for layer in layers] == [False, True]
        flatness, refused = relative_flatness(risk, layers, Options())
        assert not refused
        found.append(flatness)
    for name in ("up", "head"):
        for quantity in ("trace", "maximum", "normalized", "frobenius_trace"):
            values = [getattr(flatness[name], quantity).value for flatness in found]
            assert values[0] == pytest.approx(values[1], rel=1e-9), (name, quantity)


def test_where_the_samples_are(make_risk):
    x, y = TOKENS, torch.arange(5) % 3
    found = sample_layouts(make_risk(Encoder(norm_first=True).double(), x, y))
    assert found["embed.weight"] is Layout.SECOND
    assert found["encode.self_attn.in_proj_weight"] is Layout.SECOND
    assert found["encode.self_attn.out_proj.weight"] is Layout.INNER
    assert found["norm.weight"] is Layout.SECOND
    assert found["head.weight"] is Layout.OUTER
