"""Errors of the trace estimators at 36 products, on spectra like a trained network's.

Run by hand: ``python tests/bench/bench_traces.py [SEEDS]``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch

from flatmeter.estimate import Estimate
from flatmeter.spectral.hutchpp import hutchpp
from flatmeter.spectral.operator import MatrixOperator, Operator
from flatmeter.spectral.trace import hutchinson
from flatmeter.spectral.xtrace import xtrace

PRODUCTS = 36

SPECTRA = {
    "9 outliers and a long tail": np.concatenate(
        [np.geomspace(30.0, 3.0, 9), np.geomspace(0.5, 1e-6, 900), -np.geomspace(1e-6, 0.1, 91)]
    ),
    "25 outliers and a long tail": np.concatenate(
        [np.geomspace(30.0, 1.0, 25), np.geomspace(0.5, 1e-6, 900), -np.geomspace(1e-6, 0.1, 75)]
    ),
    "a power law": 30.0 / np.arange(1.0, 1001.0) ** 1.5,
    "flat": np.linspace(1.0, 2.0, 1000),
}


def methods() -> dict[str, Callable[[Operator, int], Estimate]]:
    """Each estimator with a budget of ``PRODUCTS``."""
    return {
        "Hutchinson": lambda op, s: (
            hutchinson(op, rtol=1e-12, max_probes=PRODUCTS, block=PRODUCTS, seed=s).estimate
        ),
        "Hutch++": lambda op, s: (
            hutchpp(op, rtol=1e-12, max_products=PRODUCTS, block=12, seed=s).estimate
        ),
        "XTrace": lambda op, s: xtrace(op, rtol=1e-12, max_products=PRODUCTS, seed=s).estimate,
    }


def rotated(eigenvalues: np.ndarray) -> MatrixOperator:
    """A random matrix with these eigenvalues."""
    size = len(eigenvalues)
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    return MatrixOperator((q * torch.from_numpy(eigenvalues)) @ q.T)


def main(seeds: int) -> None:
    torch.set_num_threads(1)
    for spectrum, eigenvalues in SPECTRA.items():
        op, true = rotated(eigenvalues), float(eigenvalues.sum())
        for method, run in methods().items():
            found = [run(op, seed) for seed in range(seeds)]
            errors = np.array([e.value for e in found]) / true - 1
            said = np.sqrt(np.mean([e.stderr**2 for e in found])) / abs(true)
            inside = [low <= true <= high for low, high in (e.interval() for e in found)]
            print(
                f"{spectrum}: {method}: root mean square error {np.sqrt(np.mean(errors**2)):.3%}, "
                f"standard error said {said:.3%}, 95 % intervals cover {np.mean(inside):.1%}"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
