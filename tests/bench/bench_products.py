"""Hessian products against a gradient: graphs rebuilt for each product, and kept.

Run by hand: ``python tests/bench/bench_products.py [SAMPLES]``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import torch

from flatmeter.curvature.products import HessianOperator
from flatmeter.data.dataset import Dataset
from flatmeter.model.registry import build_model
from flatmeter.risk.custom_loss import load_loss
from flatmeter.risk.empirical import EmpiricalRisk

NETS = {
    "mlp": ("zoo:mlp", {}, (1, 8, 8)),
    "cnn with batch-norm": ("zoo:cnn", {"norm": "batch"}, (1, 8, 8)),
    "residual": ("zoo:resnet", {"norm": "none"}, (1, 8, 8)),
    "resnet18": ("torchvision:resnet18", {"num_classes": 10}, (3, 32, 32)),
}


def best(work: Callable[[], object], times: int = 5) -> float:
    """Shortest of several runs, in seconds."""
    work()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main(samples: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, (spec, args, shape) in NETS.items():
        n = samples if "zoo" in spec else max(2, samples // 64)
        data = Dataset(torch.randn(n, *shape), torch.arange(n) % 10, name="random")
        model = build_model(spec, args).eval()
        loss = load_loss("cross_entropy")
        kept = EmpiricalRisk(model, loss, data)
        rebuilt = EmpiricalRisk(model, loss, data, batch_size=kept.batch_size)
        v = torch.randn(1, kept.space.dim)
        gradient = best(rebuilt.gradient)
        once, again = (best(partial(HessianOperator(r).matmat, v)) for r in (rebuilt, kept))
        print(
            f"{name}: gradient {1e3 * gradient:.1f} ms; one product in gradients: "
            f"rebuilt {once / gradient:.2f}, kept {again / gradient:.2f}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1024)
