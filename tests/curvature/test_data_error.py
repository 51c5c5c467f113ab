"""The error from measuring on a sample: against delete-a-group jackknifes, and by its coverage."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from torch import nn

from flatmeter.curvature import data_error
from flatmeter.curvature.data_error import DataGroups
from flatmeter.data.dataset import Dataset
from flatmeter.data.pairs import as_dataset
from flatmeter.estimate import student_quantile
from flatmeter.measures.adaptive_sharpness import AdaptiveSharpness
from flatmeter.measures.context import Context
from flatmeter.measures.gradient_norm import GradientNorm
from flatmeter.measures.hessian_eigenvalues import HessianEigenvalues
from flatmeter.measures.hessian_trace import HessianTrace
from flatmeter.measures.minimum_sharpness import MinimumSharpness
from flatmeter.measures.quotient_hessian import QuotientHessian
from flatmeter.measures.relative_flatness import RelativeFlatness
from flatmeter.measures.spherical_sharpness import SphericalSharpness
from flatmeter.risk.cross_entropy import CrossEntropy
from flatmeter.risk.empirical import EmpiricalRisk
from flatmeter.symmetry.find import find_group

SAMPLES, GROUPS = 160, 16
WEIGHTED = CrossEntropy(weight=[1.0, 4.0, 0.5], ignore_index=2)


@pytest.fixture(autouse=True)
def sixteen_groups(monkeypatch):
    monkeypatch.setattr(data_error, "GROUPS", GROUPS)


@functools.lru_cache
def network(*, norm: bool = False, activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    """Trained a little, so that eigenvalues stand apart."""
    torch.manual_seed(3)
    middle = [nn.BatchNorm1d(5)] if norm else []
    net = nn.Sequential(nn.Linear(4, 5), *middle, activation(), nn.Linear(5, 3)).double()
    optimiser, (x, y) = torch.optim.Adam(net.parameters(), 0.02), samples(512, seed=7)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimiser.step()
    return net


def samples(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator).double()
    return x, (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()


def risk_of(net, data, loss=None, **options) -> EmpiricalRisk:
    return EmpiricalRisk(net, loss or CrossEntropy(), data, dtype=torch.float64, **options)


def measured(measure, risk):
    def group():
        return find_group(risk.module, risk.example_inputs(), risk.space.names)

    found = measure.compute(Context(risk=risk, bn=risk.bn, group=group))
    parts = {f"{p.scope} {p.quantity}": p.estimate for p in found.parts}
    return {**found.quantities, **parts}


def of_source(data: Dataset, size: int) -> Dataset:
    return dataclasses.replace(data, source_size=size)


CASES = {
    "hessian_trace": (HessianTrace(), {}, {"loss": WEIGHTED}),
    "minimum_sharpness": (MinimumSharpness(), {}, {"loss": WEIGHTED}),
    "neuron": (MinimumSharpness(granularity="neuron"), {}, {}),
    "flatness": (RelativeFlatness(), {}, {"loss": WEIGHTED}),
    "all flatness": (RelativeFlatness(layer="all"), {}, {}),
    "smooth flatness": (RelativeFlatness(layer="0", bias=True), {"activation": nn.Tanh}, {}),
    "eigenvalues": (HessianEigenvalues(), {}, {"loss": WEIGHTED}),
    "quotient": (QuotientHessian(), {}, {}),
    "projected": (QuotientHessian(hessian="scaled", project=True), {}, {}),
}

#: A norm's error holds what noise adds to it, which a jackknife does not see; and the average's
#: draws follow the direction of the worst case.
NOT_COMPARED = {"gradient_norm"}


@pytest.mark.parametrize("case", CASES)
def test_the_error_is_that_of_a_jackknife_over_the_groups(case) -> None:
    measure, shape, options = CASES[case]
    net, data = network(**shape), of_source(Dataset(*samples(SAMPLES), "test"), 2 * SAMPLES)
    risk = risk_of(net, data, **options)
    found = measured(measure, risk)
    left = []
    for members in DataGroups.of(risk).members:
        rest = torch.ones(SAMPLES, dtype=torch.bool)
        rest[members] = False
        less = Dataset(data.inputs[rest], data.targets[rest], "test")
        left.append(measured(measure, risk_of(net, less, **options)))
    known = {name for name, e in found.items() if e.data_stderr is not None} - NOT_COMPARED
    assert next(iter(found)) in known
    for name in known:
        values = torch.tensor([other[name].value for other in left], dtype=torch.float64)
        spread = (values - values.mean()).square().sum() * (GROUPS - 1) / GROUPS
        jackknife = float((0.5 * spread).sqrt())  # half of the source was measured
        assert found[name].data_stderr == pytest.approx(jackknife, rel=0.2, abs=1e-9), name


def test_the_error_of_eigenvalues_with_batch_statistics(dense) -> None:
    data = of_source(Dataset(*samples(SAMPLES), "test"), 2 * SAMPLES)
    net, batch = network(norm=True), SAMPLES // GROUPS
    found = measured(SphericalSharpness(), risk_of(net, data, bn="batch", bn_batch=batch))
    hessians = []
    for x, y in zip(data.inputs.split(batch), data.targets.split(batch), strict=True):
        own = risk_of(net, Dataset(x, y, "one batch"), bn="batch", bn_batch=batch)
        hessians.append(dense.hessian(own))
    vector = torch.linalg.eigh(sum(hessians)).eigenvectors[:, -1]
    forms = torch.stack([vector @ H @ vector for H in hessians])
    error = float(forms.std() / GROUPS**0.5 * 0.5**0.5)  # half of the source was measured
    assert found["raw"].value == pytest.approx(float(forms.mean()), rel=1e-6)
    assert found["raw"].data_stderr == pytest.approx(error, rel=1e-4)
    assert all(found[name].data_stderr > 0 for name in ("block", "global", "tangent"))


def test_the_error_of_adaptive_sharpness() -> None:
    data = of_source(Dataset(*samples(SAMPLES), "test"), 1000)
    risk = risk_of(network(), data)
    found = measured(AdaptiveSharpness(starts=1, samples=24, rtol=1e-6), risk)
    groups, generator = DataGroups.of(risk), torch.Generator().manual_seed(0)
    rises = torch.zeros(GROUPS, dtype=torch.float64)
    for _ in range(200):
        delta = 0.05 * risk.theta.abs() * torch.randn(risk.space.dim, generator=generator)
        for point in (risk.theta + delta, risk.theta - delta):
            rises += (groups.losses(point) - groups.losses(risk.theta)) / 400
    assert found["average"].data_stderr == pytest.approx(float(groups.stderr(rises)), rel=0.25)
    assert found["worst"].data_stderr > 0


def test_the_error_of_a_large_gradient_is_that_along_it() -> None:
    net = nn.Linear(4, 3).double()
    nn.init.constant_(net.bias, 2.0)
    with torch.no_grad():
        net.bias[0] = -2.0
    x, y = samples(SAMPLES)
    data = of_source(Dataset(x, torch.zeros_like(y), "always the class it never gives"), 1000)
    risk = risk_of(net, data)
    found = measured(GradientNorm(), risk)["value"]
    each = [
        torch.autograd.functional.jacobian(
            lambda t, i=i: risk.total(t, x[i : i + 1], data.targets[i : i + 1]), risk.theta
        )
        for i in range(SAMPLES)
    ]
    along = torch.stack(each) @ risk.gradient() / found.value
    error = float(along.std() / SAMPLES**0.5 * (1 - SAMPLES / 1000) ** 0.5)
    assert found.data_stderr == pytest.approx(error, rel=0.4)  # sixteen groups have such a spread


def test_noise_alone_has_a_norm() -> None:
    """At a stationary point of the source the whole norm is the sample's noise."""
    whole = Dataset(*samples(600), "test")
    net = nn.Linear(4, 3).double()
    optimiser = torch.optim.LBFGS(net.parameters(), max_iter=200, tolerance_grad=1e-12)

    def closure():
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(net(whole.inputs), whole.targets)
        loss.backward()
        return loss

    optimiser.step(closure)
    true = measured(GradientNorm(), risk_of(net, whole))["value"].value
    hits = 0
    for seed in range(40):
        data = as_dataset(whole, name="test", samples=200, seed=seed)
        found = measured(GradientNorm(), risk_of(net, data))["value"]
        hits += abs(found.value - true) <= student_quantile(GROUPS, 0.95) * found.data_stderr
    assert hits >= 34


def test_intervals_of_a_weighted_mean_hold(monkeypatch) -> None:
    monkeypatch.setattr(data_error, "GROUPS", 32)
    x, y = samples(1024)
    whole, loss = Dataset(x, y, "test"), WEIGHTED
    net = nn.Linear(4, 3).double()
    z = net(x).detach()
    true = float(loss.total(z, y) / loss.count(y))
    hits, count = 0, 400
    for seed in range(count):
        data = as_dataset(whole, name="test", samples=512, seed=seed)
        groups = DataGroups.of(risk_of(net, data, loss))
        each = loss.per_sample(net(data.inputs).detach(), data.targets)
        sums = torch.stack([each[members].sum() for members in groups.members])
        half = student_quantile(len(sums), 0.95) * float(groups.stderr(sums))
        hits += abs(float(groups.mean(sums)) - true) <= half
    assert 0.93 <= hits / count <= 0.97


def test_intervals_of_nonlinear_values_hold(monkeypatch) -> None:
    monkeypatch.setattr(data_error, "GROUPS", 32)
    whole, net = Dataset(*samples(900), "test"), network()
    measure = RelativeFlatness()
    true = measured(measure, risk_of(net, whole))
    hits, count = 0, 0
    for seed in range(90):
        data = as_dataset(whole, name="test", samples=300, seed=seed)
        found = measured(measure, risk_of(net, data))
        for name in ("trace", "max", "normalized"):
            half = student_quantile(32, 0.95) * found[name].data_stderr
            hits, count = hits + (abs(found[name].value - true[name].value) <= half), count + 1
    assert 0.9 <= hits / count <= 0.99  # 400 seeds: 94.3 to 95.5 %


#: How the network is made and evaluated, what is compared, and over how many samples.
SAMPLED = {
    "minimum": (MinimumSharpness(), {}, {}, ["value"], 40),
    "quotient": (QuotientHessian(), {}, {}, ["lambda_max", "trace", "normalized"], 40),
    "adaptive": (AdaptiveSharpness(starts=1, samples=3), {}, {}, ["worst"], 40),
    "spherical": (
        SphericalSharpness(max_products=24),  # block comes first
        {"norm": True},
        {"bn": "batch", "bn_batch": SAMPLES // GROUPS},
        ["block"],
        20,
    ),
}


@pytest.mark.parametrize("case", SAMPLED)
def test_the_error_is_the_spread_of_values_over_samples(case) -> None:
    measure, shape, options, names, count = SAMPLED[case]
    net, whole = network(**shape), Dataset(*samples(5 * SAMPLES), "test")
    risk = risk_of(net, whole, **options)
    group = find_group(risk.module, risk.example_inputs(), risk.space.names)

    def found(data):
        context = Context(risk_of(net, data, **options), risk.bn, lambda: group, rtol=1e-2)
        return measure.compute(context).quantities

    true, values, errors = found(whole), [], []
    for seed in range(count):
        data = as_dataset(whole, name="test", samples=SAMPLES, seed=seed)
        known = found(data if seed < 6 else dataclasses.replace(data, source_size=None))
        values.append([known[name].value for name in names])
        errors += [[known[name].data_stderr for name in names]] if seed < 6 else []
    # The median, since batches of statistics have heavy tails.
    table, told = torch.tensor(values), torch.tensor(errors).median(0).values
    for name, value, spread, error in zip(
        names, table.mean(0).tolist(), table.std(0).tolist(), told.tolist(), strict=True
    ):
        assert 0.6 < error / spread < 1.6, name
        assert abs(value - true[name].value) < 1.5 * error, name


def test_an_eigenvalue_near_zero_has_no_error() -> None:
    data = of_source(Dataset(*samples(SAMPLES), "test"), 1000)
    found = measured(HessianEigenvalues(), risk_of(network(), data))
    assert abs(found["lambda_min"].value) < 0.1 * found["lambda_max"].value
    assert found["lambda_min"].data_stderr is None


def test_probes_widen_the_error_and_never_narrow_it(dense) -> None:
    data = of_source(Dataset(*samples(SAMPLES), "test"), 1000)
    risk = risk_of(network(activation=nn.GELU), data)
    found = measured(HessianTrace(), risk)["value"]
    groups = DataGroups.of(risk)
    exact = float(groups.stderr(groups.sums(lambda part: dense.hessian(part).trace())))
    assert found.stderr > 0
    assert 0.95 * exact <= found.data_stderr <= 2 * exact


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batches_change_the_error_by_rounding_only(batch_size) -> None:
    data = of_source(Dataset(*samples(40), "test"), 80)
    one, other = (
        measured(MinimumSharpness(), risk_of(network(), data, batch_size=size))["value"]
        for size in (None, batch_size)
    )
    assert other.data_stderr == pytest.approx(one.data_stderr, rel=1e-10)
    assert other.value == pytest.approx(one.value, rel=1e-12)


def test_the_order_of_the_samples_does_not_matter() -> None:
    x, y = samples(SAMPLES)
    order = y.argsort()
    errors = [
        measured(HessianTrace(), risk_of(network(), of_source(Dataset(a, b, "test"), 1000)))
        for a, b in ((x, y), (x[order], y[order]))
    ]
    mixed, sorted_by_class = (e["value"].data_stderr for e in errors)
    assert sorted_by_class == pytest.approx(mixed, rel=0.5)


def test_where_there_is_no_error_to_tell() -> None:
    x, y = samples(40)
    assert DataGroups.of(risk_of(network(), Dataset(x, y, "all there is"))) is None
    assert DataGroups.of(risk_of(network(), of_source(Dataset(x, y, "all"), 40))) is None
    few = of_source(Dataset(x[:7], y[:7], "too few"), 40)
    assert DataGroups.of(risk_of(network(), few)) is None
    batches = of_source(Dataset(x, y, "two batches"), 400)
    assert DataGroups.of(risk_of(network(norm=True), batches, bn="batch", bn_batch=20)) is None


def test_what_is_spent_on_groups_is_counted_once() -> None:
    risk = risk_of(network(), of_source(Dataset(*samples(SAMPLES), "test"), 1000))
    DataGroups.of(risk).forms(risk.theta[None])
    assert risk.cost.products == pytest.approx(1.0)


@pytest.mark.parametrize("size", [3, 20])
def test_processes_share_the_groups_out(size):
    """Also where there are more processes than groups."""

    class OneOf:
        def __init__(self, rank):
            self.rank = rank

        def share(self, count):
            return range(count * self.rank // size, count * (self.rank + 1) // size)

        def sum(self, *tensors):
            pass

    risk = risk_of(network(), of_source(Dataset(*samples(40), "part"), 400))
    groups, tables, spent = DataGroups.of(risk), [], []
    expected = groups.losses(risk.theta)
    for rank in range(size):
        risk.ranks, before = OneOf(rank), risk.cost.gradient_equivalents
        tables.append(groups.losses(risk.theta))
        spent.append(risk.cost.gradient_equivalents - before)
    torch.testing.assert_close(sum(tables), expected, rtol=0, atol=0)
    # Each tells the cost of all.
    assert spent == pytest.approx([1 / 3] * size)
