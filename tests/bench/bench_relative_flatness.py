"""Cost of relative flatness of a 512 → 10 head, in forward passes of the network below it.

Run by hand: ``python tests/bench/bench_relative_flatness.py [samples] [repeats]``. Prints the time of
one forward pass over the data, of the closed form, and their ratio; the two take turns in one
process, and medians are compared.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
import torchvision

from flatmeter.curvature.flatness_run import Options
from flatmeter.curvature.linear_layers import linear_layers
from flatmeter.curvature.relative_flatness import relative_flatness
from flatmeter.data.dataset import Dataset
from flatmeter.risk.custom_loss import load_loss
from flatmeter.risk.empirical import EmpiricalRisk


def timed(work) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(samples: int = 512, repeats: int = 5) -> None:
    torch.manual_seed(0)
    net = torchvision.models.resnet18(num_classes=10)
    data = Dataset(torch.randn(samples, 3, 32, 32), torch.randint(0, 10, (samples,)), "noise")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    risk = EmpiricalRisk(net, load_loss("cross_entropy"), data, device=device, batch_size=128)
    layers = linear_layers(risk)
    head = [layers[-1]]
    works = {
        "forward pass": lambda: risk.value(),
        "closed form": lambda: relative_flatness(risk, head, Options()),
        "finding the layers": lambda: linear_layers(risk),
    }
    times = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            times[name].append(timed(work))
    medians = {name: statistics.median(ts[1:]) for name, ts in times.items()}
    for name, seconds in medians.items():
        ratio = seconds / medians["forward pass"]
        print(f"{name:20} {1e3 * seconds:10.1f} ms   {ratio:6.3f} forward passes")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
