"""Eigenvalues and traces of trained networks beside the peers: time and error.

Run by hand where the peers are installed, each with its own settings:
``python tests/bench/bench_targets.py [THREADS] [NET …]``.
Errors are relative to the largest eigenvalue or the trace from a long run in float64.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from bench_peers import curvlinops
from nets import cases
from torch import Tensor, nn

from flatmeter.allocator import keep_freed_memory
from flatmeter.curvature.products import HessianOperator
from flatmeter.data.dataset import Dataset
from flatmeter.measures.context import Context
from flatmeter.measures.hessian_trace import HessianTrace
from flatmeter.risk.custom_loss import load_loss
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.spectral.lanczos import lanczos

STEPS = 60
TOP = 10
ERROR = 1e-3
"""Of an eigenvalue, relative to the largest."""
TRACE_PRODUCTS = 100


def trained(net: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
    """Some steps of Adam, so that a few eigenvalues stand out."""
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(STEPS):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    net.zero_grad(set_to_none=True)
    return net


class Eigenvalues:
    """Largest eigenvalues by each tool; every method gives an array, largest first."""

    def __init__(self, net: nn.Module, x: Tensor, y: Tensor) -> None:
        self.net, self.x, self.y = net, x, y

    def risk(self, dtype: torch.dtype = torch.float32) -> EmpiricalRisk:
        data = Dataset(self.x, self.y, name="random")
        return EmpiricalRisk(self.net, load_loss("cross_entropy"), data, dtype=dtype)

    def true(self, k: int) -> np.ndarray:
        operator = HessianOperator(self.risk(torch.float64))
        return lanczos(operator, which="largest", k=k, rtol=1e-8, seed=7).largest.numpy()

    def flatmeter(self, k: int) -> np.ndarray:
        operator = HessianOperator(self.risk())
        return lanczos(operator, which="largest", k=k, rtol=1e-3).largest.numpy()

    def pyhessian(self, k: int, tol: float = 1e-3) -> np.ndarray:
        from pyhessian import hessian

        held = hessian(self.net, F.cross_entropy, data=(self.x, self.y), cuda=False)
        # Its default is 100 steps of the power method, which a small tolerance may not reach.
        steps = 100 if tol == 1e-3 else 2000
        return np.array(held.eigenvalues(maxIter=steps, tol=tol, top_n=k)[0])

    def arpack(self, k: int) -> np.ndarray:
        """ARPACK on curvlinops' operator, as its documentation has it."""
        from scipy.sparse.linalg import LinearOperator, eigsh

        apply = curvlinops(self.net, self.x, self.y)
        size = sum(p.numel() for p in self.net.parameters())

        def matvec(v: np.ndarray) -> np.ndarray:
            row = torch.from_numpy(np.asarray(v, np.float32).reshape(1, -1))
            return apply(row).detach().numpy().reshape(-1)

        operator = LinearOperator((size, size), matvec=matvec, dtype=np.float32)
        return np.sort(eigsh(operator, k=k, which="LA", tol=1e-3)[0])[::-1]

    def eigenthings(self, k: int) -> np.ndarray:
        from hessian_eigenthings import HessianOperator as Operator
        from hessian_eigenthings import lanczos as theirs
        from hessian_eigenthings import supervised_loss

        operator = Operator(self.net, [(self.x, self.y)], supervised_loss(F.cross_entropy))
        found = theirs(operator, k=k, max_iter=max(2 * k, 20), tol=1e-3, which="LA", seed=0)
        return np.sort(found.eigenvalues.numpy())[::-1]


class Traces(Eigenvalues):
    """Traces by each tool."""

    def exact(self) -> float:
        """By the exact traces where they are certified, else from many probes in float64."""
        measure = HessianTrace(max_probes=4000)
        context = Context(self.risk(torch.float64), None, group=lambda: None, rtol=1e-3)
        return measure.compute(context).headline.value

    def by_flatmeter(self) -> float:
        context = Context(self.risk(), None, group=lambda: None, rtol=1e-2)
        return HessianTrace().compute(context).headline.value

    def by_pyhessian(self) -> float:
        from pyhessian import hessian

        held = hessian(self.net, F.cross_entropy, data=(self.x, self.y), cuda=False)
        return float(np.mean(held.trace()))

    def by_curvlinops(self) -> float:
        from curvlinops import HessianLinearOperator, hutchpp_trace

        params = list(self.net.parameters())
        operator = HessianLinearOperator(
            self.net, nn.CrossEntropyLoss(), params, [(self.x, self.y)], check_deterministic=False
        )
        return float(hutchpp_trace(operator, num_matvecs=TRACE_PRODUCTS - TRACE_PRODUCTS % 3))

    def by_eigenthings(self) -> float:
        from hessian_eigenthings import HessianOperator as Operator
        from hessian_eigenthings import supervised_loss, trace

        operator = Operator(self.net, [(self.x, self.y)], supervised_loss(F.cross_entropy))
        return float(trace(operator, num_matvecs=TRACE_PRODUCTS, seed=0).estimate)


Taken = tuple[float, float]
"""Seconds on the clock, and of all cores: the second bears other work on the machine better."""


def timed(work: Callable[[], object]) -> tuple[Taken, object]:
    started, cpu = time.perf_counter(), time.process_time()
    found = work()
    return (time.perf_counter() - started, time.process_time() - cpu), found


def told(what: str, taken: Taken, error: float) -> None:
    clock, cpu = taken
    print(f"  {what:30} {clock:8.3f} s ({cpu:8.3f} s of cores), error {error:.1e}", flush=True)


def eigenvalues(subject: Eigenvalues, k: int) -> None:
    """Every tool with its own settings, and PyHessian besides with those that reach the error."""
    true = subject.true(k)

    def run(tool: str, label: str, **settings: float) -> float:
        try:
            taken, found = timed(partial(getattr(subject, tool), k, **settings))
        except Exception as error:
            print(f"  top {k:2} {label:12} fails: {str(error)[:90]}")
            return 0.0
        error = float(np.abs(np.asarray(found) - true).max() / true[0])
        told(f"top {k:2} {label}", taken, error)
        return error

    run("flatmeter", "flatmeter")
    worst = run("pyhessian", "pyhessian")
    for tol in (1e-4, 1e-5, 1e-6):
        if worst <= ERROR:
            break
        worst = run("pyhessian", f"pyhessian, tol={tol:g}", tol=tol)
    for tool in ("arpack", "eigenthings"):
        run(tool, tool)


def main(threads: int, names: list[str]) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    for name, (net, x, y) in cases().items():
        if names and name not in names:
            continue
        subject = Traces(trained(net, x, y).eval(), x, y)
        print(f"{name}: loss {float(F.cross_entropy(net(x), y)):.4f}")
        for k in (1, TOP):
            eigenvalues(subject, k)
        exact = subject.exact()
        for tool in ("flatmeter", "pyhessian", "curvlinops", "eigenthings"):
            try:
                taken, found = timed(getattr(subject, f"by_{tool}"))
            except Exception as error:
                print(f"  trace  {tool:12} fails: {str(error)[:90]}")
                continue
            error = abs(float(found) / exact - 1)  # type: ignore[arg-type]
            told(f"trace  {tool}", taken, error)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1, sys.argv[2:])
