"""Products compiled by ``torch.compile`` beside flatmeter's, and what compiling takes.

Run by hand: ``python tests/bench/bench_compile.py [THREADS] [NET …]``. Compiled are forward over
reverse derivatives, the only second ones that ``torch.compile`` takes, over all data as one batch.
Prints gradients for each vector, and after how many products compiling has paid for itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from bench_peers import seconds
from nets import cases
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flatmeter.allocator import keep_freed_memory
from flatmeter.curvature.products import HessianOperator
from flatmeter.data.dataset import Dataset
from flatmeter.risk.custom_loss import load_loss
from flatmeter.risk.empirical import EmpiricalRisk

BLOCKS = (1, 16)
ROUNDS = 3


def product_of(net: nn.Module, x: Tensor, y: Tensor, k: int) -> Callable[[Tensor], Tensor]:
    """Hessian times ``[k, P]``, written for the compiler."""
    names = [name for name, _ in net.named_parameters()]
    shapes = [p.shape for p in net.parameters()]
    sizes = [p.numel() for p in net.parameters()]
    theta = torch.cat([p.detach().reshape(-1) for p in net.parameters()])

    def loss(flat: Tensor) -> Tensor:
        parts = [t.view(s) for t, s in zip(flat.split(sizes), shapes, strict=True)]
        held = dict(zip(names, parts, strict=True))
        return F.cross_entropy(torch.func.functional_call(net, held, (x,)), y)

    def one(v: Tensor) -> Tensor:
        return torch.func.jvp(torch.func.grad(loss), (theta,), (v,))[1]

    if k == 1:
        return lambda V: one(V[0])[None]
    return torch.func.vmap(one)


def compare(name: str, net: nn.Module, x: Tensor, y: Tensor) -> None:
    """Both on one network."""
    risk = EmpiricalRisk(net.eval(), load_loss("cross_entropy"), Dataset(x, y, name="random"))
    gradient = min(seconds(risk.gradient) for _ in range(ROUNDS))
    print(f"{name}: gradient {gradient:.4f} s", flush=True)
    operator = HessianOperator(risk)
    for k in BLOCKS:
        V = torch.randn(k, operator.dim, generator=torch.Generator().manual_seed(0))
        eager = operator.matmat
        compiled = torch.compile(product_of(net, x, y, k), fullgraph=True, dynamic=False)
        try:
            started = time.perf_counter()
            found = compiled(V)
            compiling = time.perf_counter() - started
        except Exception as error:
            print(f"  block of {k}: not compiled: {str(error).splitlines()[0][:90]}")
            torch.compiler.reset()
            continue
        off = float((found - eager(V)).norm() / found.norm())
        ours = min(seconds(partial(eager, V)) for _ in range(ROUNDS)) / k
        theirs = min(seconds(partial(compiled, V)) for _ in range(ROUNDS)) / k
        gain = ours - theirs
        pays = f"pays after {compiling / gain:,.0f} vectors" if gain > 0 else "never pays"
        print(
            f"  block of {k}: flatmeter {ours / gradient:.2f}, compiled {theirs / gradient:.2f} "
            f"gradients for each vector; compiling {compiling:.1f} s, {pays}; differ by {off:.0e}",
            flush=True,
        )
        torch.compiler.reset()


def main(threads: int, names: list[str]) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    print(f"torch {torch.__version__}, {threads} threads")
    for name, (net, x, y) in cases().items():
        if not names or name in names:
            with sdpa_kernel(SDPBackend.MATH):
                compare(name, net, x, y)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1, sys.argv[2:])
