from __future__ import annotations

import pytest
import torch

from flatmeter.curvature import row_eigenvalues
from flatmeter.curvature.row_eigenvalues import factored_maxima, formed_maxima, lanczos_maxima


@pytest.mark.parametrize("sign", ["positive", "mixed", "negative"])
@pytest.mark.parametrize("decay", [0.2, 1.0])
def test_lanczos_finds_the_largest_algebraic_eigenvalues(sign, decay):
    torch.manual_seed(0)
    values = torch.exp(-decay * torch.arange(40).double())
    values = {"positive": values, "mixed": values * (-1) ** torch.arange(40), "negative": -values}[
        sign
    ]
    blocks = []
    for scale in (1.0, 1e-9, 30.0):
        Q = torch.linalg.qr(torch.randn(40, 40).double()).Q
        blocks.append(scale * Q @ torch.diag(values) @ Q.T)
    blocks = torch.stack([*blocks, torch.zeros(40, 40).double()])
    true = formed_maxima(blocks)
    found = lanczos_maxima(
        lambda V: torch.einsum("sij,sj->si", blocks, V), 4, 40, torch.device("cpu"), 0, 1e-6
    )
    error = (found.values - true.values).abs()
    assert bool((error <= found.bounds + 1e-13 * blocks.abs().amax((1, 2))).all())
    if sign != "negative":
        assert found.converged
        assert bool((error <= 1e-6 * true.values.abs() + 1e-20).all())
        assert found.steps < 40


def test_exhausted_spaces_settle():
    u = torch.randn(4, 30).double()
    found = lanczos_maxima(
        lambda V: (u * V).sum(1, keepdim=True) * u, 4, 30, torch.device("cpu"), 0, 1e-10
    )
    torch.testing.assert_close(found.values, u.square().sum(1))
    assert found.converged
    assert found.steps <= 3


def test_factored_blocks_formed_or_not(monkeypatch):
    torch.manual_seed(0)
    a, w = torch.randn(50, 12).double(), torch.randn(50, 5).double()
    formed = factored_maxima(a, w, seed=0, rtol=1e-8)
    monkeypatch.setattr(row_eigenvalues, "FORMED", 0)
    iterated = factored_maxima(a, w, seed=0, rtol=1e-8)
    torch.testing.assert_close(iterated.values, formed.values, rtol=1e-7, atol=0)
    blocks = torch.einsum("ns,ni,nj->sij", w, a, a)
    torch.testing.assert_close(formed.values, torch.linalg.eigvalsh(blocks)[:, -1])
    weights = torch.arange(5).double()
    one, other = formed.weighted(weights), iterated.weighted(weights)
    assert one.exact
    assert not other.exact
    assert abs(one.value - other.value) <= other.residual + 1e-12
