"""How often 95 % intervals hold the truth, at fixed budgets and after stopping.

Run by hand: ``python tests/bench/bench_coverage.py [SEEDS]``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch

from flatmeter.estimate import Estimate
from flatmeter.spectral.frobenius import squared_frobenius
from flatmeter.spectral.hutchpp import hutchpp
from flatmeter.spectral.operator import MatrixOperator, Operator
from flatmeter.spectral.trace import hutchinson
from flatmeter.spectral.xtrace import xtrace

SIZE = 100
SPECTRA = {
    "flat": np.linspace(1.0, 2.0, SIZE),
    "power law": 30.0 / np.arange(1, SIZE + 1) ** 1.5,
    "outliers": np.concatenate([[30.0, 20.0, 12.0, 8.0, 5.0], np.geomspace(1.0, 1e-4, SIZE - 5)]),
    "indefinite": np.concatenate([[6.0, -2.0], np.linspace(-0.2, 1.0, SIZE - 2)]),
    "one over a constant": np.concatenate([[30.0], np.ones(SIZE - 1)]),
}

Run = Callable[[Operator, int, float, int], Estimate]
METHODS: dict[str, tuple[Run, tuple[int, ...], tuple[float, ...]]] = {
    "Hutchinson": (
        lambda op, s, r, n: hutchinson(op, rtol=r, max_probes=n, seed=s).estimate,
        (16, 36, 80),
        (0.2, 0.1, 0.05),
    ),
    "Hutch++": (
        lambda op, s, r, n: hutchpp(op, rtol=r, max_products=n, seed=s).estimate,
        (30, 36, 60),
        (0.2, 0.05, 0.02),
    ),
    "XTrace": (
        lambda op, s, r, n: xtrace(op, rtol=r, max_products=min(n, 150), seed=s).estimate,
        (18, 36, 54),
        (0.2, 0.05, 0.02),
    ),
    "Frobenius": (
        lambda op, s, r, n: squared_frobenius(op, rtol=r, max_products=n, seed=s).estimate,
        (16, 36, 80),
        (0.3, 0.2, 0.1),
    ),
}


def rotated(eigenvalues: np.ndarray) -> MatrixOperator:
    """A random matrix with these eigenvalues."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
    q = torch.linalg.qr(q).Q
    return MatrixOperator((q * torch.from_numpy(eigenvalues)) @ q.T)


def main(seeds: int) -> None:
    torch.set_num_threads(1)
    for spectrum, eigenvalues in SPECTRA.items():
        op = rotated(eigenvalues)
        for method, (run, budgets, tolerances) in METHODS.items():
            values = eigenvalues**2 if method == "Frobenius" else eigenvalues
            true = float(values.sum())
            settings = [(1e-12, n) for n in budgets] + [(r, 1000) for r in tolerances]
            for rtol, most in settings:
                ends = [run(op, seed, rtol, most).interval() for seed in range(seeds)]
                held = np.mean([low <= true <= high for low, high in ends])
                what = f"budget {most}" if rtol < 1e-9 else f"tolerance {rtol:g}"
                print(f"{spectrum}: {method}, {what}: {held:.1%}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
