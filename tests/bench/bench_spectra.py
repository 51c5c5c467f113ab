"""Products, time and true error of eigenvalues and densities, beside ARPACK and PyHessian.

On small networks trained here, whose dense Hessian tells the truth. Run by hand:
``python tests/bench/bench_spectra.py``. ARPACK is SciPy's ``eigsh`` on the same products (what
curvlinops' examples do); PyHessian is used where it is installed.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn

from flatmeter.curvature.products import HessianOperator
from flatmeter.data.digits import load_digits
from flatmeter.risk.cross_entropy import CrossEntropy
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.spectral.density import density
from flatmeter.spectral.lanczos import lanczos

SEEDS = 5


def networks() -> dict[str, nn.Module]:
    """A small one of each kind."""
    torch.manual_seed(0)
    norm = [nn.Linear(64, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 16), nn.LayerNorm(16)]
    return {
        "GELU": nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 16),
            nn.GELU(),
            nn.Linear(16, 16),
            nn.GELU(),
            nn.Linear(16, 10),
        ),
        "layer norm": nn.Sequential(nn.Flatten(), *norm, nn.ReLU(), nn.Linear(16, 10)),
    }


def trained(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    """After 300 steps of Adam on 64 samples each."""
    optimiser, generator = (
        torch.optim.Adam(net.parameters(), 1e-2),
        torch.Generator().manual_seed(0),
    )
    for _ in range(300):
        index = torch.randint(0, len(x), (64,), generator=generator)
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x[index]), y[index]).backward()
        optimiser.step()
    return net.eval()


class Counted:
    """An operator that counts its products."""

    def __init__(self, op: HessianOperator) -> None:
        self.op, self.products = op, 0
        self.dim, self.dtype, self.device, self.psd = op.dim, op.dtype, op.device, op.psd
        self.noise = op.noise

    def matmat(self, V: torch.Tensor) -> torch.Tensor:
        """As the operator."""
        self.products += len(V)
        return self.op.matmat(V)


def wasserstein(places: np.ndarray, parts: np.ndarray, true: np.ndarray) -> float:
    """Distance of two spectra, in mean magnitudes of an eigenvalue."""
    both = np.concatenate([places, true])
    mass = np.concatenate([parts / parts.sum(), np.full(len(true), -1 / len(true))])
    order = np.argsort(both)
    area = np.abs(np.cumsum(mass[order])[:-1]) @ np.diff(both[order])
    return float(area / np.abs(true).mean())


def told(what: str, runs: list[tuple[float, float, float]]) -> None:
    """Mean products and seconds, and the largest error."""
    products, seconds, errors = np.array(runs).T
    spent = f"{products.mean():.0f} products, {seconds.mean():.2f} s"
    print(f"  {what}: {spent}, error {errors.max():.1e}")


def timed(op: Counted, run: Callable[[], float]) -> tuple[float, float, float]:
    """Products, seconds and error of a run that returns its error."""
    before, start = op.products, time.perf_counter()
    error = run()
    return op.products - before, time.perf_counter() - start, error


def eigenvalues(op: Counted, true: np.ndarray, k: int) -> None:
    """The k largest, by flatmeter and by ARPACK at three tolerances."""
    wanted = np.sort(true)[::-1][:k]

    def worst(found: np.ndarray) -> float:
        return float(np.abs(np.sort(found)[::-1] / wanted - 1).max())

    def ours(seed: int, block: int = 1) -> float:
        found = lanczos(op, which="largest", k=k, rtol=1e-3, seed=seed, block=block)
        return worst(found.largest.numpy())

    def arpack(seed: int, tol: float) -> float:
        def apply(v: np.ndarray) -> np.ndarray:
            return op.matmat(torch.from_numpy(v.reshape(1, -1)).to(op.dtype))[0].numpy()

        start = np.random.default_rng(seed).standard_normal(op.dim)
        linear = LinearOperator((op.dim, op.dim), apply, dtype=np.float64)
        return worst(eigsh(linear, k, which="LA", tol=tol, v0=start, return_eigenvectors=False))

    told(f"top {k}, flatmeter 1e-3", [timed(op, lambda s=s: ours(s)) for s in range(SEEDS)])
    for block in (4, 16):
        runs = [timed(op, lambda s=s, b=block: ours(s, b)) for s in range(SEEDS)]
        told(f"top {k}, flatmeter in blocks of {block}", runs)
    for tol in (1e-1, 1e-2, 1e-3):
        runs = [timed(op, lambda s=s, t=tol: arpack(s, t)) for s in range(SEEDS)]
        told(f"top {k}, ARPACK {tol:g}", runs)


def densities(op: Counted, true: np.ndarray) -> None:
    """The whole spectrum, at three numbers of steps."""
    for steps in (10, 20, 40):

        def run(seed: int, steps: int = steps) -> float:
            found = density(op, steps=steps, max_products=5 * steps, rtol=1e-9, seed=seed)
            return wasserstein(*found.atoms(), true)

        told(f"density, {steps} steps", [timed(op, lambda s=s: run(s)) for s in range(SEEDS)])


def eig(matrix: torch.Tensor, eigenvectors: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``torch.eig`` gave of a symmetric matrix before it was removed; PyHessian needs it."""
    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, torch.zeros_like(values)], dim=1), vectors


def peer(net: nn.Module, x: torch.Tensor, y: torch.Tensor, true: np.ndarray) -> None:
    """PyHessian with its README's settings; every product is counted."""
    try:
        module = importlib.import_module("pyhessian.hessian")  # a class hides it in the package
    except ImportError:
        print("  PyHessian is not installed")
        return
    counter, inner = [0], module.hessian_vector_product

    def counted(*arguments):
        counter[0] += 1
        return inner(*arguments)

    module.hessian_vector_product = counted
    torch.eig = eig
    try:
        computer = module.hessian(net, nn.CrossEntropyLoss(), data=(x, y), cuda=False)
        for k in (1, 10):
            wanted, runs = np.sort(true)[::-1][:k], []
            for seed in range(SEEDS):
                torch.manual_seed(seed)
                counter[0], start = 0, time.perf_counter()
                found, _ = computer.eigenvalues(maxIter=100, tol=1e-3, top_n=k)
                error = float(np.abs(np.sort(found)[::-1] / wanted - 1).max())
                runs.append((counter[0], time.perf_counter() - start, error))
            told(f"top {k}, PyHessian", runs)
        for probes in (1, 4):
            runs = []
            for seed in range(SEEDS):
                torch.manual_seed(seed)
                counter[0], start = 0, time.perf_counter()
                nodes, weights = map(np.array, computer.density(iter=100, n_v=probes))
                error = wasserstein(nodes.real.ravel(), weights.real.ravel(), true)
                runs.append((counter[0], time.perf_counter() - start, error))
            told(f"density, PyHessian with {probes} vectors", runs)
    finally:
        module.hessian_vector_product = inner


def main() -> None:
    torch.set_num_threads(1)
    data = load_digits("train", samples=400)
    x, y = data.inputs.float(), data.targets
    for name, net in networks().items():
        net = trained(net, x, y)
        exact = HessianOperator(EmpiricalRisk(net, CrossEntropy(), data, dtype=torch.float64))
        blocks = torch.eye(exact.dim, dtype=torch.float64).split(64)
        true = torch.linalg.eigvalsh(torch.cat([exact.matmat(b) for b in blocks])).numpy()
        print(f"{name}: {len(true)} parameters, eigenvalues {true[0]:.3g} to {true[-1]:.3g}")
        op = Counted(HessianOperator(EmpiricalRisk(net, CrossEntropy(), data)))
        for k in (1, 10):
            eigenvalues(op, true, k)
        densities(op, true)
        peer(net, x, y, true)


if __name__ == "__main__":
    main()
