from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from flatmeter.estimate import Why
from flatmeter.measures.context import Context
from flatmeter.measures.quotient_hessian import QuotientHessian
from flatmeter.symmetry.find import find_group

TIGHT = 1e-9


def measured(risk, rtol=TIGHT, **options):
    def group():
        return find_group(risk.module, risk.example_inputs(), risk.space.names)

    context = Context(risk=risk, bn=None, group=group, rtol=rtol)
    return QuotientHessian(**options).compute(context)


def values(measurement) -> dict[str, float]:
    return {name: estimate.value for name, estimate in measurement.quantities.items()}


def two_by_two(bias: bool) -> nn.Module:
    net = nn.Sequential(nn.Linear(2, 2, bias=bias), nn.ReLU(), nn.Linear(2, 2, bias=bias))
    filled = {"0.weight": [[1, 0.5], [-0.3, 0.8]], "2.weight": [[1, -1], [0.5, 2]]}
    if bias:
        filled |= {"0.bias": [0.1, -0.2], "2.bias": [0, 0.3]}
    net.load_state_dict({name: torch.tensor(v) for name, v in filled.items()})
    return net.double()


ORACLE = {
    (False, "scaled", False): (-5.1706732622, 8.4675356441, 5.4015855236),
    (False, "scaled", True): (-4.3335109862, 8.4472038167, None),
    (False, "riemann", False): (-7.7910079292, 12.2339614198, 0.3622827502),
    (False, "riemann", True): (-7.7910079292, 12.2339614198, 0.3622827502),
    (True, "scaled", False): (-5.1077343824, 9.3414244440, 7.0416627947),
    (True, "scaled", True): (-3.9296529885, 9.3261068200, None),
    (True, "riemann", False): (-7.1706972276, 12.9567684776, 2.7753229466),
}


@pytest.mark.parametrize(("bias", "hessian", "project"), ORACLE)
def test_closed_numbers_of_the_2_2_2_network(make_risk, bias, hessian, project) -> None:
    x = torch.tensor([[1.0, 2.0], [-1.0, 0.5]]).double()
    risk = make_risk(two_by_two(bias), x, torch.tensor([0, 1]))
    found = values(measured(risk, hessian=hessian, project=project))
    low, high, trace = ORACLE[bias, hessian, project]
    assert found["lambda_min"] == pytest.approx(low, rel=1e-6)
    assert found["lambda_max"] == pytest.approx(high, rel=1e-6)
    assert found["abs_max"] == pytest.approx(max(high, -low), rel=1e-6)
    if trace is not None:
        assert found["trace"] == pytest.approx(trace, rel=1e-6)
    if (hessian, project) == ("scaled", False):
        printed = 1.9550251047 if bias else 1.6704277219
        assert found["normalized"] == pytest.approx(printed, rel=1e-6)


@pytest.mark.parametrize(
    ("hessian", "expected"), [("riemann", (-4.0, 0.0)), ("scaled", (0.0, 4.0))]
)
def test_product_of_two_scalars(make_risk, hessian, expected) -> None:
    """L = (s − y)², s = w₁w₂ = 1, y = 3: twice {4s² − 2sy, 0} or twice {3s² − sy, s(y − s)}."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    with torch.no_grad():
        net[0].weight.fill_(4.0)
        net[1].weight.fill_(0.25)
    risk = make_risk(net, torch.ones(1, 1).double(), torch.full((1, 1), 3.0).double(), loss="mse")
    found = values(measured(risk, hessian=hessian))
    assert (found["lambda_min"], found["lambda_max"]) == pytest.approx(expected, abs=1e-9)


def riemannian(risk, hessian: Tensor, *, connection: bool = True) -> Tensor:
    """The operator as a matrix, block by block from the formula."""
    gradient = risk.gradient()
    A = torch.zeros_like(hessian)
    slices = [risk.space.slice(name) for name in risk.space.names]
    for a in slices:
        for b in slices:
            A[a, b] = risk.theta[a].norm() * hessian[a, b] * risk.theta[b].norm()
        if connection:
            unit, g = risk.theta[a] / risk.theta[a].norm(), risk.theta[a].norm() * gradient[a]
            outer = torch.outer(unit, g)
            A[a, a] += outer + outer.T - (unit @ g) * torch.eye(len(g)).double()
    return A


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(3)
    return {
        "relu": nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)),
        "tanh": nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)),
        "conv": nn.Sequential(
            nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(27, 3),
        ),
        "batch norm": nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)),
    }  # fmt: skip


@pytest.fixture
def risk_of(make_risk):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(12, 4, generator=generator).double()
    y = torch.randint(0, 3, (12,), generator=generator)

    def build(net: nn.Module, **options):
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.bias.data = torch.linspace(0.1, 0.5, 5)
        return make_risk(net.double(), x, y, **options)

    return build


@pytest.mark.parametrize("name", networks())
@pytest.mark.parametrize("bn", ["eval", "batch"])
def test_all_quantities_match_the_dense_operator(risk_of, dense, name, bn) -> None:
    risk = risk_of(networks()[name], bn=bn)
    hessian = dense.hessian(risk)
    A = riemannian(risk, hessian)
    eigenvalues = torch.linalg.eigvalsh(A)
    measurement = measured(risk, max_probes=40)
    found = values(measurement)
    assert found["lambda_max"] == pytest.approx(float(eigenvalues[-1]), rel=1e-7)
    assert found["lambda_min"] == pytest.approx(float(eigenvalues[0]), rel=1e-7)
    assert found["abs_max"] == pytest.approx(float(eigenvalues.abs().max()), rel=1e-7)
    trace = measurement.quantities["trace"]
    assert abs(trace.value - float(A.trace())) <= 5 * trace.stderr + 1e-9
    assert trace.exact == (name in ("relu", "conv") or (name, bn) == ("batch norm", "eval"))
    norms = risk.space.spread(risk.space.block_norms(risk.theta))
    assert found["gradient_norm"] == pytest.approx(float((norms * risk.gradient()).norm()))
    assert found["normalized"] == pytest.approx(found["lambda_max"] / (2 + 2 * risk.value()))


def test_projected_trace_is_that_of_the_projected_matrix(risk_of, dense) -> None:
    risk = risk_of(networks()["relu"])
    A = riemannian(risk, dense.hessian(risk), connection=False)
    w1, b1, w2 = (risk.space.slice(n) for n in ("0.weight", "0.bias", "2.weight"))
    v = torch.zeros(risk.space.dim).double()
    for part, sign in ((w1, 1), (b1, 1), (w2, -1)):
        v[part] = sign * risk.theta[part] / risk.theta[part].norm()
    v /= v.norm()
    P = torch.eye(len(v)).double() - torch.outer(v, v)
    found = values(measured(risk, hessian="scaled", project=True))
    assert found["trace"] == pytest.approx(float((P @ A @ P).trace()), rel=1e-9)
    assert found["lambda_max"] == pytest.approx(float(torch.linalg.eigvalsh(P @ A @ P)[-1]))


def test_weight_decay_is_left_out(risk_of) -> None:
    plain = values(measured(risk_of(networks()["relu"])))
    assert values(measured(risk_of(networks()["relu"], weight_decay=0.5))) == plain


def test_blocks_of_norm_zero_are_left_out_and_listed(risk_of, dense) -> None:
    net = networks()["relu"]
    nn.init.zeros_(net[0].bias)
    risk = risk_of(net)
    kept = [i for i in range(risk.space.dim) if not 20 <= i < 25]
    measurement = measured(risk)
    A = riemannian(risk, dense.hessian(risk))[kept][:, kept]
    eigenvalues = torch.linalg.eigvalsh(A)
    found = values(measurement)
    assert found["lambda_min"] == pytest.approx(float(eigenvalues[0]), rel=1e-7)
    assert found["lambda_max"] == pytest.approx(float(eigenvalues[-1]), rel=1e-7)
    assert found["trace"] == pytest.approx(float(A.trace()), rel=1e-9)
    assert any("0.bias" in note for note in measurement.notes)


def test_batches_change_only_rounding(risk_of) -> None:
    one = values(measured(risk_of(networks()["relu"])))
    many = values(measured(risk_of(networks()["relu"], batch_size=5)))
    assert many == pytest.approx(one, rel=1e-9)


def test_float32_at_the_default_tolerance(risk_of) -> None:
    exact = values(measured(risk_of(networks()["conv"])))
    measurement = measured(risk_of(networks()["conv"], dtype=torch.float32), rtol=None)
    for name, estimate in measurement.quantities.items():
        assert estimate.converged
        assert estimate.value == pytest.approx(exact[name], rel=1e-4, abs=1e-3)


def test_budget(risk_of) -> None:
    found = measured(risk_of(networks()["relu"]), max_products=3).quantities["lambda_max"]
    assert (found.n, found.converged, found.why) == (3, False, Why.BUDGET)


def test_scaled_without_projection_says_what_it_is(risk_of) -> None:
    assert any(
        "project" in n for n in measured(risk_of(networks()["relu"]), hessian="scaled").notes
    )
