"""Cost of relative flatness of a 512 → 10 head, in forward passes of the network below it.

Run by hand: ``python tests/bench/bench_relative_flatness.py [samples] [repeats] [threads]``. Prints
the time of one forward pass over the data, of the closed form, and their ratio; they take turns in
one process, and the fastest of the repeats are compared. The rows' largest eigenvalues, which the
closed form gives too, are told apart: they are no passes over the network.
"""

from __future__ import annotations

import sys
import time

import torch
from nets import resnet18

from flatmeter.curvature.closed_form import ClosedForm
from flatmeter.curvature.flatness_run import Options
from flatmeter.curvature.linear_layers import linear_layers
from flatmeter.curvature.matrix_view import matrix_view
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


def measured(name: str, net: torch.nn.Module, x: torch.Tensor, repeats: int) -> None:
    data = Dataset(x, torch.randint(0, 10, (len(x),)), "noise")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    risk = EmpiricalRisk(net, load_loss("cross_entropy"), data, device=device, batch_size=128)
    head = [linear_layers(risk)[-1]]
    works = {
        "forward pass": lambda: risk.value(),
        "closed form": lambda: ClosedForm(risk, head[0], matrix_view(head[0].call)).run(),
        "with eigenvalues": lambda: relative_flatness(risk, head, Options()),
        "finding the layers": lambda: linear_layers(risk),
    }
    times = {work: [] for work in works}
    for _ in range(repeats + 1):
        for work, run in works.items():
            times[work].append(timed(run))
    fastest = {work: min(ts[1:]) for work, ts in times.items()}
    print(f"{name}, {len(x)} samples")
    for work, seconds in fastest.items():
        ratio = seconds / fastest["forward pass"]
        print(f"  {work:20} {1e3 * seconds:10.1f} ms   {ratio:6.3f} forward passes")


def main(samples: int = 512, repeats: int = 5, threads: int = 2) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    measured("ResNet-18, 32 × 32", resnet18().eval(), torch.randn(samples, 3, 32, 32), repeats)
    net = torch.nn.Sequential(torch.nn.Linear(784, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
    measured("MLP 784-512-10", net, torch.randn(4096, 784), repeats)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
