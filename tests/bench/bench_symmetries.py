"""Seconds of one core to export, solve and verify the symmetries of large networks, and memory.

Run by hand: ``python tests/bench/bench_symmetries.py [NAME …]``, each network in its own process.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from flatmeter.import_torchvision import import_torchvision
from flatmeter.risk.batch_norm import private_copy
from flatmeter.risk.space import ParameterSpace
from flatmeter.symmetry.channel_rules import channel_equations
from flatmeter.symmetry.channels import numbered
from flatmeter.symmetry.export import exported_graph
from flatmeter.symmetry.find import find_group
from flatmeter.symmetry.rules import Equations
from flatmeter.symmetry.verify import Evaluator


class Dense(nn.Module):
    """Every layer sees the outputs of all before it, as in a DenseNet without norms."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width * (i + 1), width) for i in range(layers))
        self.head = nn.Linear(width * (layers + 1), 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of ``[n, width]``."""
        for layer in self.layers:
            x = torch.cat([x, layer(x).relu()], 1)
        return self.head(x)


class Stream(nn.Module):
    """A residual stream with a block of two layers at every step."""

    def __init__(self, blocks: int, width: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(width, width), nn.Linear(width, 10)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of ``[n, width]``."""
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def chain(layers: int, width: int) -> nn.Module:
    """Linear layers and ReLU."""
    parts = [part for _ in range(layers) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*parts, nn.Linear(width, 10))


def torchvision(name: str, **arguments: object) -> Callable[[], tuple[nn.Module, Tensor]]:
    """A model of torchvision with images of 32 pixels, or of its own size."""

    def made() -> tuple[nn.Module, Tensor]:
        net = import_torchvision().models.get_model(name, weights=None, **arguments)
        pixels = arguments.get("image_size", 32)
        return net, torch.randn(2, 3, pixels, pixels)

    return made


NETS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "chain of 1,000 tensors": lambda: (chain(499, 16), torch.randn(2, 16)),
    "dense net of 1,000 tensors": lambda: (Dense(499, 4), torch.randn(2, 4)),
    "stream of 1,000 tensors": lambda: (Stream(249, 16), torch.randn(2, 16)),
    "densenet201": torchvision("densenet201"),
    "efficientnet_v2_l": torchvision("efficientnet_v2_l"),
    "regnet_y_32gf": torchvision("regnet_y_32gf"),
    "vit_l_16": torchvision("vit_l_16", image_size=224),
    "swin_b": torchvision("swin_b"),
    "vgg16": torchvision("vgg16"),
}


def measure(name: str) -> str:
    """One line for a network: seconds of each stage and gigabytes at the peak."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net, x = NETS[name]()
    net = private_copy(net, bn="batch", device=x.device, dtype=torch.float32)
    names = ParameterSpace.from_module(net).names
    base = peak()
    times = [time.process_time()]
    graph = exported_graph(net, x, names)
    times.append(time.process_time())
    equations = Equations(graph)
    dim = len(equations.system.null_space(names))
    times.append(time.process_time())
    channels = channel_equations(graph, equations.null)
    _, number = numbered(channels.laws, channels.ids)
    times.append(time.process_time())
    solved = peak()
    export, tensor, channel = (b - a for a, b in pairwise(times))
    verify = verification(net, x, names)
    return (
        f"{name:28} {len(names):5} tensors  dimension {dim:4}  channels {int(number.max()):6}  "
        f"export {export:5.1f}  tensor {tensor:5.2f}  channel {channel:5.2f}  "
        f"verify {verify:5.1f} s  memory {base:.1f} + {solved - base:.1f} GB solved, "
        f"{peak():.1f} GB verified"
    )


def verification(net: nn.Module, x: Tensor, names: Sequence[str]) -> float:
    """Seconds in which the whole of finding evaluates networks."""
    seconds, change = 0.0, Evaluator.change

    def timed(*args: Any) -> float:
        nonlocal seconds
        start = time.process_time()
        changed = change(*args)
        seconds += time.process_time() - start
        return changed

    with mock.patch.object(Evaluator, "change", timed):
        find_group(net, x, names)
    return seconds


def peak() -> float:
    """Gigabytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(measure(sys.argv[2]))
    else:
        for case in sys.argv[1:] or NETS:
            subprocess.run([sys.executable, __file__, "--one", case], check=True)
