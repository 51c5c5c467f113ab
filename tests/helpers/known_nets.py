"""Small networks whose scaling symmetries are known by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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


class PackedAttention(nn.Module):
    """Queries, keys and values from one weight, as in GPT-2."""

    def __init__(self):
        super().__init__()
        self.qkv, self.o = nn.Linear(4, 12), nn.Linear(4, 4)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (2, 2)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
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


class SwiGLU(nn.Module):
    """A stream that RMS norms read, with a gated unit in its block."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.last = nn.Linear(4, 6), rms_norm(), rms_norm()
        self.gate, self.up = nn.Linear(6, 5, bias=False), nn.Linear(6, 5, bias=False)
        self.down, self.head = nn.Linear(5, 6, bias=False), nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        h = self.norm(x)
        return self.head(self.last(x + self.down(F.silu(self.gate(h)) * self.up(h))))


def rms_norm():
    return nn.RMSNorm(6, eps=EPS)


def grouped():
    """On 8 by 8 pixels: 6, 3, 4."""
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2),
        nn.LeakyReLU(),
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(6, 4, 2, groups=2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 16, 3),
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


class InvertedBottleneck(nn.Module):
    """A block of MobileNetV3: expand, filter by depth, gate, project, and add to the stream."""

    def __init__(self):
        super().__init__()
        self.stem, self.expand = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 4, 1)
        self.filter, self.project = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 3, 1)
        self.down, self.up, self.head = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1), nn.Linear(3, 2)

    def forward(self, x):
        x = self.stem(x)
        h = F.hardswish(self.filter(F.hardswish(self.expand(x))))
        gate = F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(h, 1)))))
        return self.head((x + self.project(h * gate)).mean((2, 3)))


def grouped_in_every_way():
    """Two filters for each channel, one for each, and groups of two, both ways."""
    return nn.Sequential(
        *(nn.Conv1d(3, 2, 2), nn.ReLU()),
        *(nn.Conv1d(2, 4, 2, groups=2), nn.ReLU()),
        *(nn.ConvTranspose1d(4, 4, 2, groups=4), nn.ReLU()),
        *(nn.ConvTranspose1d(4, 6, 2, groups=2, stride=2, output_padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(6 * 9, 2)),
    )


class Concatenated(nn.Module):
    """Two branches side by side, as in a U-Net's skip."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 3, 3), nn.Conv2d(5, 3, 1)

    def forward(self, x):
        x = torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], 1)
        return self.head(x).amax((2, 3))


class UNet(nn.Module):
    """Down, up again, and beside what was there before."""

    def __init__(self):
        super().__init__()
        self.stem, self.low = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1)
        self.up, self.merge = nn.ConvTranspose2d(3, 2, 2, stride=2), nn.Conv2d(4, 3, 3, padding=1)
        self.head = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        skip = F.relu(self.stem(x))
        low = F.relu(self.low(F.max_pool2d(skip, 2)))
        return self.head(F.relu(self.merge(torch.cat([self.up(low), skip], 1))))


class ResidualNorm(nn.Module):
    """A residual block whose batch-norms use the batch's statistics."""

    def __init__(self):
        super().__init__()
        conv = {"kernel_size": 3, "padding": 1, "bias": False}
        norm = {"eps": EPS, "track_running_stats": False}
        self.stem, self.norm = nn.Conv2d(3, 4, **conv), nn.BatchNorm2d(4, **norm)
        self.a, self.norm_a = nn.Conv2d(4, 5, **conv), nn.BatchNorm2d(5, **norm)
        self.b, self.norm_b = nn.Conv2d(5, 4, **conv), nn.BatchNorm2d(4, **norm)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.norm_b(self.b(F.relu(self.norm_a(self.a(x))))))
        return self.head(x.mean((2, 3)))


class LinearBottleneck(nn.Module):
    """A block of MobileNetV2: its stream is not rectified before the next batch-norm."""

    def __init__(self):
        super().__init__()
        for name, into, out, size in (
            ("stem", 3, 3, 3),
            ("expand", 3, 4, 1),
            ("filter", 4, 4, 3),
            ("project", 4, 3, 1),
            ("last", 3, 4, 1),
        ):
            groups = 4 if name == "filter" else 1
            conv = nn.Conv2d(into, out, size, padding=size // 2, groups=groups, bias=False)
            norm = nn.BatchNorm2d(out, eps=EPS, track_running_stats=False)
            setattr(self, name, nn.Sequential(conv, norm))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x)
        h = F.relu(self.filter(F.relu(self.expand(x))))
        return self.head(F.relu(self.last(x + self.project(h))).mean((2, 3)))


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
        nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4, eps=EPS), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)
    )


class Language(nn.Module):
    """An embedding tied to the head."""

    def __init__(self):
        super().__init__()
        self.embed, self.a, self.b = nn.Embedding(7, 4), nn.Linear(4, 5), nn.Linear(5, 4)

    def forward(self, tokens):
        return F.linear(self.b(F.relu(self.a(self.embed(tokens)))), self.embed.weight)


VECTOR, TOKENS, IMAGE, SMALL = (4,), (3, 4), (3, 8, 8), (3, 5, 5)


@dataclass(frozen=True)
class Known:
    """A network and the dimensions of its groups, counted by hand.

    Args:
        make: builds it.
        shape: of one input; ``None`` for six tokens out of seven.
        tensors: dimension of the group that scales whole tensors.
        entries: dimension of the group that scales every entry of every tensor by itself.
        beyond: how much of that no identifier of a channel can express.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...] | None
    tensors: int
    entries: int
    beyond: int = 0

    def build(self):
        """The network in float64, away from the zeros and ones that layers start with."""
        torch.manual_seed(0)
        net = self.make().double().eval()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
        return net

    def inputs(self, count=4):
        """Random inputs ``[count, …]``."""
        generator = torch.Generator().manual_seed(1)
        if self.shape is None:
            return torch.randint(7, (count, 6), generator=generator)
        return torch.randn(count, *self.shape, generator=generator, dtype=torch.float64)


KNOWN = {
    "mlp": Known(mlp, VECTOR, 2, 5 + 6),
    # The inner scale, and the stream's.
    "residual": Known(Residual, VECTOR, 2, 5 + 6),
    # Weight and hidden bias scale together, and the weight once more on the way out: nothing.
    "tied autoencoder": Known(TiedAutoencoder, VECTOR, 0, 0),
    # Either factor of each unit: sums of two scales, which only tensors have. One factor is held.
    "gated unit": Known(Gated, VECTOR, 2, 5 + 5, beyond=4),
    # Queries against keys, values against the output; the keys' bias changes nothing.
    "attention": Known(Attention, TOKENS, 3, 4 + 4 + 4),
    # In one tensor none of that is a scale of the tensor, nor is the keys' bias one by itself.
    "packed attention": Known(PackedAttention, TOKENS, 0, 4 + 4 + 4, beyond=4),
    "depth-wise separable": Known(separable, IMAGE, 3, 6 + 6 + 4),
    # The stream's writers; inside the block; the first gain; the last norm's gain and the head.
    "pre-norm": Known(lambda: Norm(True), TOKENS, 4, 1 + 5 + 6 + 6),
    # The stream's writers before the norm with the block; inside it; the gain and the head.
    "post-norm": Known(lambda: Norm(False), TOKENS, 3, 1 + 5 + 6),
    # The stream's writers; the gain that the gate undoes; up and down; the last gain.
    "swiglu": Known(SwiGLU, TOKENS, 4, 1 + 6 + 5 + 6),
    "grouped and transposed": Known(grouped, (4, 8, 8), 2, 6 + 4),
    # Two features, and the gate's inner scale; what the gate sees its first weight undoes.
    "squeeze-excite": Known(SqueezeExcite, IMAGE, 3, 4 + 4 + 2),
    # The stream, and the gate's inner scale; what hard-swish sees is fixed.
    "inverted bottleneck": Known(InvertedBottleneck, IMAGE, 2, 3 + 2),
    "grouped in every way": Known(grouped_in_every_way, (3, 5), 4, 2 + 4 + 4 + 6),
    # Tensors on both sides of a concatenation share what reads them.
    "concatenated": Known(Concatenated, IMAGE, 1, 2 + 3),
    "u-net": Known(UNet, IMAGE, 3, 2 + 3 + 2 + 3),
    # Frozen statistics: only the two gains, each with the layer behind it.
    "batch-norm, stored": Known(lambda: batch_norm(False), IMAGE, 2, 4 + 5),
    # Both weights, a null bias, both gains.
    "batch-norm, own": Known(lambda: batch_norm(True), IMAGE, 5, 4 + 5 + 4 + 4 + 5),
    # Three weights; the stream's gains; the inner gain.
    "residual, own": Known(ResidualNorm, SMALL, 5, (4 + 5 + 4) + 4 + 5),
    # Five weights; four gains, the stream's in common; and two shifts of the stream, which the
    # batch-norms behind it take away.
    "linear bottleneck, own": Known(
        LinearBottleneck, SMALL, 5 + 4 + 2, (3 + 4 + 4 + 3 + 4) + (3 + 4 + 4 + 4) + (3 + 3)
    ),
    # Both directions row by row, and the hidden scale, which a row has one gain for.
    "weight-norm": Known(weight_normed, VECTOR, 3, 5 + 3 + 1),
    # Weight and bias before the norm, a group at a time; its gain and the head.
    "group-norm": Known(group_norm, SMALL, 2, 2 + 4),
    # Inside; and the stream, whose table gains on the way in what it loses on the way out.
    "tied embedding": Known(Language, None, 2, 5 + 4),
}
