"""The quotient's geometry against dense linear algebra in the coordinates of the weights."""

from __future__ import annotations

import pytest
import torch
from known_nets import KNOWN
from torch import nn
from torch.func import jacfwd

from flatmeter.curvature.products import HessianOperator
from flatmeter.measures.quotient_metric import Connection, block_frame, vertical_basis
from flatmeter.randomness import derived_generator
from flatmeter.spectral.operator import MatrixOperator, Projected, Restricted, Scaled, Summed
from flatmeter.symmetry.find import find_group

TAKEN = """
    mlp; tied autoencoder; gated unit; attention; swiglu; post-norm; squeeze-excite; u-net;
    batch-norm, own; weight-norm; tied embedding
"""
NETS = {
    **{name: KNOWN[name] for name in map(str.strip, TAKEN.split(";"))},
    # A bias in front of batch statistics is free by itself, and starts at zero.
    "zero tensors": KNOWN["batch-norm, own"],
    "zero stream": KNOWN["residual"],
    "free rows": KNOWN["batch-norm, own"],
}
ZEROED = {"zero tensors": ("0.bias", "1.bias"), "zero stream": ("stem.bias", "b.weight", "b.bias")}
ROWS = {"free rows": ("0.weight", "3.weight")}


class Setting:
    """A risk with its group, and what a textbook would compute with dense matrices."""

    def __init__(self, make_risk, name):
        net, x = NETS[name].build(), NETS[name].inputs(6)
        for tensor in ZEROED.get(name, ()):
            nn.init.zeros_(net.get_parameter(tensor))
        y = torch.randn(net(x).shape, generator=derived_generator(0, "targets")).double()
        self.risk = make_risk(net, x, y, loss="mse")
        self.group = find_group(self.risk.module, x, self.risk.space.names)
        self.blocks = "row" if name in ROWS else "tensor"
        self.frame = block_frame(self.risk, self.blocks, lambda: self.group)
        theta, space = self.risk.theta, self.risk.space
        parts = [
            block.norm().expand(block.numel())
            for tensor, w in space.unflatten(theta).items()
            for block in (w if tensor in ROWS.get(name, ()) else [w])
        ]
        self.norms = torch.cat(parts)
        self.covered = self.norms > 0
        E = torch.from_numpy(self.group.basis)
        owner = torch.repeat_interleave(torch.arange(len(space.sizes)), torch.tensor(space.sizes))
        zero = torch.zeros(self.group.dim, dtype=torch.float64)
        self.vertical = jacfwd(lambda u: theta * torch.exp(E @ u)[owner])(zero)[self.covered]
        self.metric = torch.diag(self.norms[self.covered] ** -2)

    @property
    def dense_projection(self):
        """``I − V (Vᵀ G V)⁺ Vᵀ G``."""
        V, G = self.vertical, self.metric
        small = torch.linalg.pinv(V.T @ G @ V, hermitian=True, rtol=1e-10)
        return torch.eye(len(G)).double() - V @ small @ V.T @ G

    @property
    def projection(self):
        """Ours, in the same coordinates."""
        D = self.frame.norm
        nothing = MatrixOperator(torch.diag(torch.zeros_like(D)))
        projected = Projected(nothing, vertical_basis(self.risk, self.group, self.frame))
        return (projected.project(torch.diag(1 / D)) * D).T


SETTINGS = {}


@pytest.fixture
def setting(make_risk):
    """The setting of a network, made once."""

    def of(name):
        if name not in SETTINGS:
            SETTINGS[name] = Setting(make_risk, name)
        return SETTINGS[name]

    return of


@pytest.mark.parametrize("name", NETS)
def test_the_horizontal_projection(setting, name):
    s = setting(name)
    P, G = s.projection, s.metric
    torch.testing.assert_close(P, s.dense_projection, rtol=0, atol=1e-12)
    torch.testing.assert_close(P @ P, P, rtol=0, atol=1e-12)
    torch.testing.assert_close(G @ P, (G @ P).T, rtol=1e-12, atol=1e-12 * float(G.max()))
    torch.testing.assert_close(P @ s.vertical, torch.zeros_like(s.vertical), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_the_operator_sends_every_vertical_vector_to_zero(setting, name):
    s = setting(name)
    assert (s.risk.gradient().norm() > 0.01).item()  # the connection counts
    connection = Connection(s.frame, s.risk.gradient()[s.frame.index])
    scaled = Scaled(Restricted(HessianOperator(s.risk), s.frame.index), s.frame.norm)
    operator = Summed(scaled, connection)
    basis = vertical_basis(s.risk, s.group, s.frame)
    rank = torch.linalg.matrix_rank(s.vertical) if s.group.dim else 0
    assert basis.shape == (rank, int(s.covered.sum()))
    torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis)).double())
    random = torch.randn(2, operator.dim, generator=derived_generator(0, "size")).double()
    size = float(operator.matmat(random).norm() / random.norm() * operator.dim**0.5)
    assert float(operator.matmat(basis).norm()) <= 1e-12 * size


@pytest.mark.parametrize("name", NETS)
def test_group_elements_are_isometries(setting, name):
    s = setting(name)
    xi, zeta = torch.randn(2, len(s.frame.index), generator=derived_generator(0, "xi")).double()
    before = (xi / s.frame.norm) @ (zeta / s.frame.norm)
    for index in range(3):
        a = s.group.random(derived_generator(0, "isometry", index), size=3.0)
        pushed = [s.group.act(a, v, s.risk.space) for v in padded(s, xi, zeta)]
        theta = s.group.act(a, s.risk.theta, s.risk.space)
        s.risk.theta, theta = theta, s.risk.theta
        frame = block_frame(s.risk, s.blocks, lambda: s.group)
        s.risk.theta = theta
        after = (pushed[0][frame.index] / frame.norm) @ (pushed[1][frame.index] / frame.norm)
        assert float(after) == pytest.approx(float(before), rel=1e-12, abs=1e-12)
        assert frame.skipped == s.frame.skipped == ZEROED.get(name, ())


def padded(s, *vectors):
    """Tangent vectors of the frame's tensors as vectors of all parameters."""
    whole = s.risk.theta.new_zeros(len(vectors), s.risk.space.dim)
    whole[:, s.frame.index] = torch.stack(vectors)
    return whole


def test_scales_of_zero_tensors_are_no_directions(setting):
    s = setting("zero tensors")
    alone = [g.words for g in s.group.generators if g.words.endswith("alone")]
    assert "0.bias alone" in alone
    assert torch.linalg.matrix_rank(s.vertical) == s.group.dim - 1
