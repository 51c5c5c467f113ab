"""Small networks whose scaling symmetries are known by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

EPS = 1e-20
"""So small that normalised networks are invariant to rounding."""


def mlp():
    return nn.Sequential(
        nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)
    )


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = x + self.b(F.relu(self.a(x)))
        return self.head(x)


class TiedAutoencoder(nn.Module):
    """The decoder is the encoder's transpose."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))
        self.hidden, self.visible = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(4))

    def forward(self, x):
        return F.linear(
            F.relu(F.linear(x, self.weight, self.hidden)), self.weight.t(), self.visible
        )


class Gated(nn.Module):
    """A product of two branches: each may grow if the other or the head shrinks."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.a(x) * self.b(x))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (2, 2)).transpose(1, 2) for f in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.o(out.transpose(1, 2).flatten(2))


def separable():
    """Depth-wise and point-wise convolutions."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 1),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


class Norm(nn.Module):
    """A transformer's feed-forward block with the normalisation before or after it."""

    def __init__(self, pre):
        super().__init__()
        self.pre, self.stem, self.head = pre, nn.Linear(4, 6), nn.Linear(6, 3)
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 6)
        self.norm = nn.LayerNorm(6, eps=EPS)
        self.last = nn.LayerNorm(6, eps=EPS) if pre else nn.Identity()

    def block(self, x):
        return self.b(F.relu(self.a(x)))

    def forward(self, x):
        x = self.stem(x)
        x = x + self.block(self.norm(x)) if self.pre else self.norm(x + self.block(x))
        return self.head(self.last(x))


def grouped():
    """On 12 by 12 pixels: 10, 5, 6."""
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2),
        nn.LeakyReLU(),
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(6, 4, 2, groups=2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 36, 3),
    )


class SqueezeExcite(nn.Module):
    """A sigmoid gate sees the features it scales."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.down, self.up, self.head = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1), nn.Linear(4, 3)

    def forward(self, x):
        x = F.relu(self.conv(F.relu(self.stem(x))))
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.head((x * gate).mean((2, 3)))


class Concatenated(nn.Module):
    """Two branches side by side, as in a U-Net's skip."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 3, 3), nn.Conv2d(5, 3, 1)

    def forward(self, x):
        x = torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], 1)
        return self.head(x).amax((2, 3))


def batch_norm(own):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, eps=EPS, track_running_stats=not own),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, bias=False),
        nn.BatchNorm2d(5, eps=EPS, track_running_stats=not own),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    )
    if not own:
        for norm in (net[1], net[4]):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    return net


def weight_normed():
    norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(norm(nn.Linear(4, 5)), nn.ReLU(), norm(nn.Linear(5, 3)))


def group_norm():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4, eps=EPS), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    )


class Language(nn.Module):
    """An embedding tied to the head."""

    def __init__(self):
        super().__init__()
        self.embed, self.a, self.b = nn.Embedding(7, 4), nn.Linear(4, 5), nn.Linear(5, 4)

    def forward(self, tokens):
        return F.linear(self.b(F.relu(self.a(self.embed(tokens)))), self.embed.weight)


VECTOR, IMAGE, TOKENS = (6, 4), (4, 3, 8, 8), (5, 3, 4)

# Network, shape of its inputs, dimension of its group counted by hand.
KNOWN = {
    "mlp": (mlp, VECTOR, 2),
    # The inner scale, and the stream's.
    "residual": (Residual, VECTOR, 2),
    # Weight and hidden bias scale together, and the weight once more on the way out: nothing.
    "tied autoencoder": (TiedAutoencoder, VECTOR, 0),
    "gated unit": (Gated, VECTOR, 2),
    # q against k, v against o; the keys' bias changes nothing.
    "attention": (Attention, TOKENS, 3),
    "depth-wise separable": (separable, IMAGE, 3),
    # The stream's writers; inside the block; the first gain; the last norm's gain and the head.
    "pre-norm": (lambda: Norm(True), TOKENS, 4),
    # The stream's writers before the norm with the block; inside it; the gain and the head.
    "post-norm": (lambda: Norm(False), TOKENS, 3),
    "grouped and transposed": (grouped, (2, 4, 12, 12), 2),
    # Two features, and the gate's inner scale.
    "squeeze-excite": (SqueezeExcite, IMAGE, 3),
    "concatenated": (Concatenated, IMAGE, 1),
    # Frozen statistics: only the two gains, each with the layer behind it.
    "batch-norm, stored": (lambda: batch_norm(False), IMAGE, 2),
    # Both weights, a null bias, both gains.
    "batch-norm, own": (lambda: batch_norm(True), IMAGE, 5),
    # Both directions, and the hidden scale.
    "weight-norm": (weight_normed, VECTOR, 3),
    # Weight and bias before the norm; its gain and the head.
    "group-norm": (group_norm, IMAGE, 2),
    "tied embedding": (Language, "tokens", 2),
}


def build(name):
    """The network in float64, away from the zeros and ones that layers start with."""
    torch.manual_seed(0)
    net = KNOWN[name][0]().double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return net


@pytest.fixture(params=list(KNOWN))
def known(request):
    """Network, inputs and dimension of the group of one of the networks."""
    net, (_, shape, dim) = build(request.param), KNOWN[request.param]
    return net, torch.randint(7, (5, 6)) if shape == "tokens" else torch.randn(shape).double(), dim


@pytest.fixture
def make():
    """Build one of the networks by name."""
    return build
