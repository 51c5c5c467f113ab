import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from flatmeter.estimate import Why
from flatmeter.measures import bn_sharpness
from flatmeter.measures.bn_sharpness import BNSharpness, Settings, sharpest_line
from flatmeter.measures.context import Context
from flatmeter.measures.line_search import LineSearch
from flatmeter.measures.spheres import GeodesicPath, Spheres, StraightPath
from flatmeter.randomness import derived_generator


class Plane:
    """a(1 − cos mψ) of the angle ψ of each of several points of the plane."""

    dtype = torch.float64

    def __init__(self, theta, heights, m):
        self.theta, self.m = theta, m
        self.heights = torch.tensor(heights, dtype=torch.float64)

    def loss(self, flat):
        w = flat.reshape(-1, 2)
        angle = torch.atan2(w[:, 1], w[:, 0])
        return (self.heights * (1 - torch.cos(self.m * angle))).sum()

    def value_tensor(self, flat):
        return self.loss(flat.double())

    def value_and_gradient_tensors(self, flat):
        point = flat.detach().double().requires_grad_()
        value = self.loss(point)
        return value.detach(), torch.autograd.grad(value, point)[0]


def blocks_of(*sizes):
    ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
    return [
        SimpleNamespace(name=str(i), indices=torch.arange(a, b))
        for i, (a, b) in enumerate(pairwise(ends))
    ]


def context(**options):
    return SimpleNamespace(
        progress=lambda text: None,
        rtol=options.get("rtol"),
        generator=lambda purpose, i: derived_generator(0, purpose, i),
    )


def plane_value(radii, heights, m, **options):
    theta = torch.tensor([x for r in radii for x in (r, 0.0)], dtype=torch.float64)
    risk, settings = Plane(theta, heights, m), Settings(**options)
    spheres = Spheres(theta, blocks_of(*[2] * len(radii)), joint=settings.ball == "joint")
    path = GeodesicPath if settings.path == "geodesic" else StraightPath
    search = LineSearch(risk, spheres, path, settings.delta, settings.p)
    return sharpest_line(search, settings, context(rtol=1e-9)).estimate()


@pytest.mark.parametrize("delta", [0.05, 0.7])
@pytest.mark.parametrize("radius", [0.3, 40.0])
def test_closed_forms_of_the_plane(delta, radius):
    a = 1.7
    two = plane_value([radius], [a], 2, delta=delta)
    assert two.value == pytest.approx(2 * a * (1 - math.atan(delta) / delta), rel=1e-8)
    square = plane_value([radius], [a], 2, delta=delta, p=2)
    inner = delta + delta / (2 * (1 + delta**2)) - 1.5 * math.atan(delta)
    assert square.value == pytest.approx(math.sqrt(4 * a * a / delta * inner), rel=1e-8)
    one = plane_value([radius], [a], 1, delta=delta)
    assert one.value == pytest.approx(a * (1 - math.asinh(delta) / delta), rel=1e-8)
    assert two.converged


def test_geodesics_integrate_the_angle():
    value = plane_value([3.0], [1.0], 2, delta=0.7, path="geodesic").value
    assert value == pytest.approx(1 - math.sin(1.4) / 1.4, rel=1e-9)


def test_product_ball_adds_blocks_and_joint_ball_takes_the_best():
    single = plane_value([1.0], [1.0], 2, delta=0.3).value
    product = plane_value([1.0, 5.0, 0.2], [1.0, 2.0, 0.5], 2, delta=0.3)
    assert product.value == pytest.approx(3.5 * single, rel=1e-8)
    joint = plane_value([1.0, 5.0, 0.2], [1.0, 2.0, 0.5], 2, delta=0.01, ball="joint", steps=200)
    best = plane_value([1.0], [2.0], 2, delta=0.01).value
    assert best * 0.98 < joint.value <= best * 1.0001


@pytest.mark.parametrize("path", [StraightPath, GeodesicPath])
@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("p", [1.0, 2.5])
def test_gradient_of_the_line_integral_by_finite_differences(path, joint, p):
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(8, generator=generator, dtype=torch.float64)
    risk = Plane(theta, [1.0, 2.0, 0.5, 0.1], 3)
    spheres = Spheres(theta, blocks_of(4, 4), joint=joint)
    search = LineSearch(risk, spheres, path, 0.4, p)
    v, u = (torch.randn(8, generator=generator, dtype=torch.float64) for _ in range(2))
    _, gradient = search.objective(v, search.fine)
    h = 1e-6
    up, down = (search.objective(v + s * h * u, search.fine)[0] for s in (1, -1))
    assert float((up - down) / (2 * h)) == pytest.approx(float(gradient @ u), rel=1e-6)


@pytest.fixture
def measured(make_risk, monkeypatch):
    """BN-sharpness of a small network with batch-norm; its rows are the blocks."""
    torch.manual_seed(0)
    x, y = torch.randn(80, 6), torch.randint(0, 3, (80,))

    def run(factors=None, *, eps=1e-16, dtype=torch.float64, seed=0, weight_decay=0.0, **options):
        torch.manual_seed(1)
        norm = nn.BatchNorm1d(5, eps=eps)
        net = nn.Sequential(nn.Linear(6, 5), norm, nn.ReLU(), nn.Linear(5, 3)).double()
        if factors is not None:
            with torch.no_grad():
                net[0].weight *= torch.tensor(factors)[:, None]
        risk = make_risk(net, x, y, bn="batch", dtype=dtype, weight_decay=weight_decay)
        rows = blocks_of(*[6] * 5, *[1] * 5)
        monkeypatch.setattr(bn_sharpness, "invariant_blocks", lambda context, title: (rows, ()))
        ready = Context(risk, bn="batch", group=lambda: None, seed=seed)
        return BNSharpness(**options).compute(ready)

    return run


@pytest.mark.parametrize("options", [{}, {"p": 2}, {"ball": "joint"}, {"path": "geodesic"}])
def test_scale_of_the_rows_does_not_matter(measured, options):
    before = measured(**options).headline
    after = measured([100.0, 0.01, 1.0, 10.0, 0.3], **options).headline
    assert after.value == pytest.approx(before.value, rel=1e-8)
    assert before.converged
    assert before.why is Why.LOWER_BOUND


def test_far_above_random_lines_and_alike_from_two_seeds(measured):
    searched = measured()
    assert measured(seed=1).headline.value == pytest.approx(searched.headline.value, rel=0.02)
    unsearched = measured(steps=1, starts=1, seed=2, ascent_rtol=10.0)
    assert searched.headline.value > unsearched.headline.value
    assert len(searched.state["starts"]) == 3
    assert any("lower bound" in note for note in searched.notes)


def test_a_single_start_is_not_vouched_for(measured):
    alone = measured(starts=1).headline
    assert alone.why is Why.SPREAD
    assert not alone.converged


def test_weight_decay_does_not_count(measured):
    assert measured(weight_decay=0.5).headline.value == measured().headline.value


def test_float32_agrees_and_says_when_it_cannot(measured):
    single = measured(dtype=torch.float32, eps=1e-5)
    assert single.headline.value == pytest.approx(measured(eps=1e-5).headline.value, rel=1e-3)
    tiny = measured(dtype=torch.float32, eps=1e-5, delta=1e-6)
    assert tiny.headline.why is Why.PRECISION
    assert any("float32" in note for note in tiny.notes)
