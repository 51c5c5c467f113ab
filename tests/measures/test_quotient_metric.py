"""What the metric of the quotient Hessian is: curvature along geodesics, and its blocks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flatmeter.curvature.products import HessianOperator
from flatmeter.errors import NotApplicable
from flatmeter.measures.context import Context
from flatmeter.measures.quotient_hessian import QuotientHessian
from flatmeter.measures.quotient_metric import Connection, block_frame
from flatmeter.randomness import derived_generator
from flatmeter.spectral.operator import Restricted, Scaled, Summed
from flatmeter.symmetry.find import find_group


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(3)
    return {
        "deep relu": nn.Sequential(
            nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3)
        ),
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
                module.running_mean = torch.linspace(-0.3, 0.3, 5)
        return make_risk(net.double(), x, y, **options)

    return build


def group_of(risk):
    return find_group(risk.module, risk.example_inputs(), risk.space.names)


def operator_of(risk, blocks="tensor"):
    frame = block_frame(risk, blocks, lambda: group_of(risk))
    connection = Connection(frame, risk.gradient()[frame.index])
    scaled = Scaled(Restricted(HessianOperator(risk), frame.index), frame.norm)
    return frame, Summed(scaled, connection), connection


@pytest.mark.parametrize("name", ["deep relu", "conv"])
def test_quadratic_form_is_the_second_derivative_along_geodesics(risk_of, name) -> None:
    """Each block moves on a cylinder: log-norm at constant speed, direction on a great circle."""
    risk = risk_of(networks()[name])
    frame, operator, _ = operator_of(risk)
    x = torch.randn(risk.space.dim, generator=derived_generator(0, "geodesic")).double()
    x /= x.norm()
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    parts = []
    for w, v in zip(risk.theta.split(risk.space.sizes), x.split(risk.space.sizes), strict=True):
        unit = w / w.norm()
        growth = unit @ v
        turn = v - growth * unit
        speed = turn.norm()
        normal = turn / speed if speed > 0 else turn
        direction = torch.cos(speed * t) * unit + torch.sin(speed * t) * normal
        parts.append(w.norm() * torch.exp(growth * t) * direction)
    inputs, targets = next(iter(risk.batches()))
    loss = risk.total(torch.cat(parts), inputs, targets) / risk.normalizer
    (first,) = torch.autograd.grad(loss, t, create_graph=True)
    (second,) = torch.autograd.grad(first, t)
    assert float(x @ operator.matmat(x[None])[0]) == pytest.approx(second.item(), rel=1e-10)
    assert first.item() == pytest.approx(float(frame.norm * x @ risk.gradient()), rel=1e-10)


def test_connection_trace_is_that_of_its_matrix(risk_of) -> None:
    _, _, connection = operator_of(risk_of(networks()["conv"]))
    matrix = connection.matmat(torch.eye(connection.dim).double())
    assert connection.trace == pytest.approx(float(matrix.trace()), rel=1e-10)
    torch.testing.assert_close(matrix, matrix.T)


def test_rows_are_the_blocks_that_batch_statistics_free(risk_of) -> None:
    net = networks()["batch norm"]
    risk = risk_of(net, bn="batch")
    frame, operator, _ = operator_of(risk, "row")
    weight = frame.block[:20].reshape(5, 4)
    assert all(len(row.unique()) == 1 for row in weight)
    assert len(weight.unique()) == 5
    rows = torch.zeros(5, operator.dim).double()
    for i in range(5):
        rows[i, 4 * i : 4 * i + 4] = frame.unit[4 * i : 4 * i + 4]
    assert float(operator.matmat(rows).norm()) <= 1e-4


def test_without_free_rows_the_blocks_are_tensors(risk_of) -> None:
    risk = risk_of(networks()["batch norm"], bn="eval")
    context = Context(risk=risk, bn="eval", group=lambda: group_of(risk))
    measurement = QuotientHessian(blocks="row").compute(context)
    assert any("no row is free" in note for note in measurement.notes)
    plain = QuotientHessian().compute(context)
    assert measurement.quantities["lambda_max"] == plain.quantities["lambda_max"]


def test_the_trace_over_rows_is_that_of_the_operator(risk_of) -> None:
    risk = risk_of(networks()["batch norm"], bn="batch")
    _, operator, _ = operator_of(risk, "row")
    true = float(operator.matmat(torch.eye(operator.dim).double()).trace())
    context = Context(risk=risk, bn="batch", group=lambda: group_of(risk), rtol=0.1)
    trace = QuotientHessian(blocks="row").compute(context).quantities["trace"]
    assert abs(trace.value - true) <= 4 * trace.stderr
    context.max_products = 5
    assert QuotientHessian(blocks="row").compute(context).quantities["trace"].n == 5


def test_all_zero_weights_have_no_metric(risk_of) -> None:
    net = networks()["deep relu"]
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(NotApplicable, match="all weights are zero"):
        block_frame(risk_of(net), "tensor", lambda: pytest.fail("no group is needed"))
