"""Exact layer traces against gradients, and against one Hessian product per probe and block.

Run by hand: ``python tests/bench/bench_layer_traces.py``. Prints ratios measured in one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

from flatmeter.curvature.layer_traces import layer_traces
from flatmeter.curvature.products import HessianOperator
from flatmeter.data.sources import load_data
from flatmeter.model.registry import build_model
from flatmeter.risk.custom_loss import load_loss
from flatmeter.risk.empirical import EmpiricalRisk


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Fastest of several runs, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def report(name: str, model: nn.Module) -> None:
    """Print one network's ratios."""
    risk = EmpiricalRisk(model, load_loss("cross_entropy"), load_data("digits"))
    gradient = seconds(risk.gradient)
    traces = seconds(lambda: layer_traces(risk))
    v = torch.ones(1, risk.space.dim)
    product = seconds(lambda: HessianOperator(risk).matmat(v))
    forward = seconds(risk.value)
    print(
        f"{name}: {risk.space.dim} parameters, {len(risk.space.names)} blocks; gradient "
        f"{gradient * 1e3:.1f} ms; forward {forward / gradient:.2f}, product "
        f"{product / gradient:.2f}, exact layer traces {traces / gradient:.2f} gradients; "
        f"one probe for each block costs {len(risk.space.names) * product / traces:.1f} times more"
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    report("mlp", build_model("zoo:mlp", {"hidden": [128, 128]}))
    report("cnn", build_model("zoo:cnn", {"channels": [16, 32]}))
    report("residual", build_model("zoo:resnet", {"norm": "none"}))
