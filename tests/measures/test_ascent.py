import pytest
import torch

from flatmeter.measures.ascent import ascend


def unit_move(x, gradient, step):
    target = gradient / gradient.norm()
    moved = x + step * (target - x)
    return moved / moved.norm()


def test_is_the_power_method_on_a_quadratic():
    matrix = torch.diag(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64))
    start = torch.ones(3, dtype=torch.float64) / 3**0.5
    ascent = ascend(lambda x: (x @ matrix @ x, matrix @ x), unit_move, start, steps=30, rtol=1e-8)
    assert ascent.settled
    assert ascent.value == pytest.approx(5.0, rel=1e-7)
    assert list(ascent.history) == sorted(ascent.history)


def test_extrapolates_what_is_left():
    # Two close eigenvalues: gains shrink slowly, and a small last gain must not count as the end.
    matrix = torch.diag(torch.tensor([1.0, 1.05], dtype=torch.float64))
    start = torch.tensor([1.0, 0.05], dtype=torch.float64)
    start = start / start.norm()
    ascent = ascend(lambda x: (x @ matrix @ x, matrix @ x), unit_move, start, steps=5, rtol=1e-3)
    assert not ascent.settled


def test_halves_the_step_where_the_value_falls():
    # On an interval, the linearised maximum of −(x − 0.3)² is an end, beyond the maximum.
    objective = lambda x: (-((x - 0.3) ** 2).sum(), -2 * (x - 0.3))  # noqa: E731
    move = lambda x, g, step: x + step * (g.sign() - x)  # noqa: E731
    start = torch.tensor([-1.0], dtype=torch.float64)
    ascent = ascend(objective, move, start, steps=60, rtol=1e-12)
    assert float(ascent.point) == pytest.approx(0.3, abs=0.02)
    assert ascent.settled


def test_an_infinite_loss_is_never_accepted():
    objective = lambda x: (torch.exp(800 * x).sum(), torch.ones_like(x))  # noqa: E731
    move = lambda x, g, step: x + step  # noqa: E731
    start = torch.zeros(1, dtype=torch.float64)
    ascent = ascend(objective, move, start, steps=30, rtol=1e-3)
    assert ascent.value < float("inf")
    assert ascent.value > 1.0
