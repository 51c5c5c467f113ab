"""Networks that products with curvature matrices are tried on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Gated(nn.Module):
    """Tied weights, a product of activations, layer-norm, an unused and a frozen parameter."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(4, 5)
        self.norm = nn.LayerNorm(5)
        self.out = nn.Linear(5, 3)
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(5), requires_grad=False)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.out(self.norm(F.silu(self.a(x)) * self.b(x) * self.frozen))
