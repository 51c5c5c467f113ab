"""Exact layer traces against gradients, and against Hessian products to the same accuracy.

Run by hand: ``python tests/bench/bench_layer_traces.py [threads] [repeats] [network …]``. Prints
ratios measured in one process, fastest of several repeats in turns. The comparison takes one
product for each probe and block, and as many probes as bring the relative standard error of the
block's trace to 1 % and to 1e-6, from the spread of some probes: the exact traces hold to rounding.
It is left out where those few probes alone would take minutes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

import torch
from nets import cases
from torch import Tensor, nn

from flatmeter.curvature.layer_traces import layer_traces
from flatmeter.curvature.products import HessianOperator
from flatmeter.data.dataset import Dataset
from flatmeter.data.sources import load_data
from flatmeter.model.registry import build_model
from flatmeter.risk.custom_loss import load_loss
from flatmeter.risk.empirical import EmpiricalRisk

PROBES = 16
PATIENCE = 120.0
"""Seconds that the probes of all blocks may take."""
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def fastest(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of each, in turns, after one round to warm up."""
    best = dict.fromkeys(works, float("inf"))
    for turn in range(repeats + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            if turn:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def relative_variances(risk: EmpiricalRisk) -> Tensor:
    """Of Hutchinson's estimate of each block's trace from one product with a probe of the block."""
    operator, sizes = HessianOperator(risk), risk.space.sizes
    traces = torch.from_numpy(layer_traces(risk).values)
    values = torch.zeros(PROBES, len(sizes), dtype=torch.float64)
    for block, start in enumerate(torch.tensor([0, *sizes]).cumsum(0)[:-1].tolist()):
        for probe in range(PROBES):
            v = torch.zeros(1, risk.space.dim, device=risk.device)
            part = v[0, start : start + sizes[block]]
            part.copy_(2 * torch.randint(0, 2, part.shape) - 1)
            values[probe, block] = float((v.double() * operator.matmat(v).double()).sum())
    return values.var(0) / traces.square()


def report(name: str, model: nn.Module, data: Dataset, repeats: int) -> None:
    """Print one network's ratios."""
    risk = EmpiricalRisk(model, load_loss("cross_entropy"), data, device=DEVICE)
    v = torch.ones(1, risk.space.dim)
    start = time.perf_counter()
    layer_traces(risk)
    first = time.perf_counter() - start
    times = fastest(
        {
            "gradient": risk.gradient,
            "forward": risk.value,
            "product": lambda: HessianOperator(risk).matmat(v),
            "traces": lambda: layer_traces(risk),
        },
        repeats,
    )
    gradient, traces = times["gradient"], times["traces"]
    print(
        f"{name}: {risk.n} samples, {risk.space.dim} parameters, {len(risk.space.names)} blocks; "
        f"gradient {gradient * 1e3:.1f} ms; forward {times['forward'] / gradient:.2f}, product "
        f"{times['product'] / gradient:.2f}, exact layer traces {traces / gradient:.2f} gradients "
        f"(the first time {first / gradient:.2f})"
    )
    if PROBES * len(risk.space.names) * times["product"] > PATIENCE:
        return
    variances = relative_variances(risk)
    for error in (1e-2, 1e-6):
        products = float((variances / error**2).clamp_min(1).sum())
        ratio = products * times["product"] / traces
        print(f"  probes of every block to {error:.0e}: {products:.3g} products, {ratio:.3g} times")


def networks() -> dict[str, tuple[nn.Module, Dataset]]:
    """Network and data by name."""
    digits = load_data("digits")
    made = {
        "zoo:mlp": (build_model("zoo:mlp", {}), digits),
        "zoo:cnn": (build_model("zoo:cnn", {}), digits),
        "zoo:resnet": (build_model("zoo:resnet", {"norm": "none"}), digits),
    }
    for name, (net, x, y) in cases().items():
        made[name] = (net, Dataset(x, y, "noise"))
    return made


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    torch.manual_seed(0)
    chosen = sys.argv[3:]
    for name, (net, data) in networks().items():
        if not chosen or name in chosen:
            report(name, net, data, int(sys.argv[2]) if len(sys.argv) > 2 else 7)
