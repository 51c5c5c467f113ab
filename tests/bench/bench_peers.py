"""Curvature products beside PyHessian, curvlinops and hessian-eigenthings: time, memory, error.

Run by hand where the peers are installed: ``python tests/bench/bench_peers.py [THREADS] [NET …]``.
Every peer is given all the data as one batch, which is its fastest way.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import torch
import torch.nn.functional as F
from nets import cases
from torch import Tensor, nn

from flatmeter.allocator import keep_freed_memory
from flatmeter.curvature.choice import choose
from flatmeter.curvature.products import HessianOperator
from flatmeter.curvature.strategies import HESSIAN
from flatmeter.data.dataset import Dataset
from flatmeter.risk.custom_loss import load_loss
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.risk.footprint import Footprint

Apply = Callable[[Tensor], Tensor]
"""``[k, P] -> [k, P]``."""

BLOCKS = (1, 16)
ROUNDS = 5


def pyhessian(net: nn.Module, x: Tensor, y: Tensor) -> Apply:
    from pyhessian import hessian
    from pyhessian.utils import hessian_vector_product

    held = hessian(net, F.cross_entropy, data=(x, y), cuda=False)
    shapes = [p.shape for p in held.params]

    def apply(V: Tensor) -> Tensor:
        rows = []
        for v in V:
            parts = v.split([s.numel() for s in shapes])
            pieces = [p.view(s) for p, s in zip(parts, shapes, strict=True)]
            image = hessian_vector_product(held.gradsH, held.params, pieces)
            rows.append(torch.cat([h.reshape(-1) for h in image]))
        return torch.stack(rows)

    return apply


def curvlinops(net: nn.Module, x: Tensor, y: Tensor) -> Apply:
    from curvlinops import HessianLinearOperator

    params = [p for p in net.parameters() if p.requires_grad]
    operator = HessianLinearOperator(
        net, nn.CrossEntropyLoss(), params, [(x, y)], check_deterministic=False
    )
    return lambda V: (operator @ V.T).T


def eigenthings(net: nn.Module, x: Tensor, y: Tensor) -> Apply:
    from hessian_eigenthings import HessianOperator as Operator
    from hessian_eigenthings import supervised_loss

    operator = Operator(net, [(x, y)], supervised_loss(F.cross_entropy))
    return lambda V: torch.stack([operator.matvec(v) for v in V])


PEERS = {
    "PyHessian": (pyhessian, "PyHessian"),
    "curvlinops": (curvlinops, "curvlinops-for-pytorch"),
    "hessian-eigenthings": (eigenthings, "hessian-eigenthings"),
}


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak(make: Callable[[], Apply], V: Tensor) -> int:
    """Most bytes of tensors alive at once while an operator is made and used twice."""
    with Footprint() as footprint:
        apply = make()
        for _ in range(2):
            apply(V)
    return footprint.peak


def compare(name: str, net: nn.Module, x: Tensor, y: Tensor) -> None:
    data = Dataset(x, y, name="random")
    risk = EmpiricalRisk(net, load_loss("cross_entropy"), data)
    V = torch.randn(max(BLOCKS), risk.space.dim)

    def ours() -> Apply:
        fresh = EmpiricalRisk(net, load_loss("cross_entropy"), data)
        return HessianOperator(fresh).matmat

    makers: dict[str, Callable[[], Apply]] = {"flatmeter": ours}
    for peer, (make, _) in PEERS.items():
        try:
            __import__(make.__name__ if make is not eigenthings else "hessian_eigenthings")
        except ImportError:
            continue
        makers[peer] = lambda make=make: make(net, x, y)
    applies = {peer: make() for peer, make in makers.items()}
    exact = EmpiricalRisk(net, load_loss("cross_entropy"), data, dtype=torch.float64)
    true = HessianOperator(exact).matmat(V[:1].double())
    gradient = min(seconds(risk.gradient) for _ in range(ROUNDS + 1))
    print(f"{name}: {risk.space.dim:,} parameters, {len(x)} samples, gradient {gradient:.4f} s")
    for k in BLOCKS:
        taken = {peer: float("inf") for peer in applies}
        for turn in range(ROUNDS + 1):
            for peer, apply in applies.items():
                elapsed = seconds(partial(apply, V[:k])) / k
                if turn:
                    taken[peer] = min(taken[peer], elapsed)
        others = [t for peer, t in taken.items() if peer != "flatmeter"]
        chosen = choose(risk, HESSIAN, k)
        print(f"  block of {k}, in gradients for each vector ({chosen}):")
        for peer, t in taken.items():
            print(f"    {peer:20} {t / gradient:6.2f}")
        if others:
            print(f"    flatmeter / best peer {taken['flatmeter'] / min(others):.2f}")
    for k in BLOCKS:
        bytes_ = {peer: peak(make, V[:k]) for peer, make in makers.items()}
        print(f"  MiB for k={k}:", {p: round(b / 2**20, 1) for p, b in bytes_.items()})
    errors = {
        peer: float((apply(V[:1]).detach().double() - true).norm() / true.norm())
        for peer, apply in applies.items()
    }
    print("  error against float64:", {p: f"{e:.1e}" for p, e in errors.items()})


def main(threads: int, names: list[str]) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    print(f"torch {torch.__version__}, {threads} threads")
    for peer, (_, package) in PEERS.items():
        try:
            print(f"{peer} {version(package)}")
        except ImportError:
            print(f"{peer} is not installed")
    for name, (net, x, y) in cases().items():
        if not names or name in names:
            compare(name, net, x, y)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1, sys.argv[2:])
