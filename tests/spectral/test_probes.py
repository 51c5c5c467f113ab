from __future__ import annotations

import torch

from flatmeter.spectral.operator import MatrixOperator
from flatmeter.spectral.probes import rademacher


def test_probes_are_signs_with_the_right_moments() -> None:
    V = rademacher(MatrixOperator(torch.zeros(50, 50)), 0, 400, seed=0, purpose="test")
    assert V.shape == (400, 50)
    assert V.dtype == torch.float32
    assert torch.equal(V.abs(), torch.ones_like(V))
    assert abs(float(V.mean())) < 4 / (400 * 50) ** 0.5
    off = (V.T @ V / 400) - torch.eye(50)
    assert float(off.abs().max()) < 5 / 400**0.5


def test_a_probe_depends_on_its_index_only() -> None:
    op = MatrixOperator(torch.zeros(50, 50, dtype=torch.float64))
    whole = rademacher(op, 0, 10, seed=3, purpose="test")
    assert torch.equal(rademacher(op, 4, 6, seed=3, purpose="test"), whole[4:6])
    assert not torch.equal(rademacher(op, 4, 6, seed=4, purpose="test"), whole[4:6])
    assert not torch.equal(rademacher(op, 4, 6, seed=3, purpose="other"), whole[4:6])
