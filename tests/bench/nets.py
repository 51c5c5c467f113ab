"""The four networks of the comparisons, each with random data of its kind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flatmeter.import_torchvision import import_torchvision
from flatmeter.risk.attention import math_attention


class Encoder(nn.Module):
    """Four blocks of a transformer's encoder, 128 wide, over 32 words, and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(100, 128)
        self.places = nn.Parameter(0.02 * torch.randn(32, 128))
        layer = nn.TransformerEncoderLayer(
            128, 4, 512, dropout=0.0, batch_first=True, activation="gelu"
        )
        self.blocks = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of sequences ``[n, 32]``; peers need the kernel with second derivatives too."""
        with math_attention():
            return self.head(self.blocks(self.words(x) + self.places).mean(1))


def mlp() -> nn.Module:
    """For digits of 8 by 8."""
    return nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def lenet() -> nn.Module:
    """Two convolutions with pooling and three linear layers."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def resnet18() -> nn.Module:
    """With the stem that is usual for CIFAR-10."""
    net = import_torchvision().models.resnet18(num_classes=10)
    net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    net.maxpool = nn.Identity()
    return net


def cases() -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """Network, inputs and labels by name."""
    torch.manual_seed(0)
    made = {
        "mlp": (mlp(), torch.randn(1024, 64)),
        "lenet": (lenet(), torch.randn(512, 1, 28, 28)),
        "encoder": (Encoder(), torch.randint(0, 100, (64, 32))),
        "resnet18": (resnet18(), torch.randn(16, 3, 32, 32)),
    }
    return {n: (net.eval(), x, torch.randint(0, 10, (len(x),))) for n, (net, x) in made.items()}
