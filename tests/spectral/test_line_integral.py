import numpy as np
import pytest

from flatmeter.spectral.line_integral import mean_power


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("delta", [0.05, 2.0])
def test_closed_forms_of_a_parabola_and_a_line(p, delta):
    k, g = 3.0, -0.7
    parabola = mean_power(lambda t: 0.5 * k * np.array(t) ** 2, delta, p, rtol=1e-9)
    assert parabola.value ** (1 / p) == pytest.approx(
        0.5 * k * delta**2 * (2 * p + 1) ** (-1 / p), rel=1e-7
    )
    line = mean_power(lambda t: g * np.array(t), delta, p, rtol=1e-6)
    assert line.value ** (1 / p) == pytest.approx(abs(g) * delta * (p + 1) ** (-1 / p), rel=1e-5)


def test_splits_at_a_root_inside_a_half():
    # t² − t/3 on [−1, 1]: negative between 0 and 1/3.
    result = mean_power(lambda t: np.array(t) ** 2 - np.array(t) / 3, 1.0, 1.0, rtol=1e-3)
    exact = 0.5 * (2 / 3 + 2 * (1 / 3) ** 3 / 6)
    assert result.roots == pytest.approx((1 / 3,), abs=2e-3)
    assert result.value == pytest.approx(exact, rel=1e-5)
    assert result.converged
    assert result.nodes == 16


def test_budget_is_reported():
    result = mean_power(
        lambda t: np.sin(300 * np.array(t)) ** 2, 1.0, 1.0, rtol=1e-10, max_nodes=16
    )
    assert not result.converged
    assert result.nodes == 16
    assert result.error > 0


def test_a_function_that_vanishes_everywhere():
    result = mean_power(lambda t: np.zeros(len(t)), 0.1, 1.0)
    assert result.value == 0.0
    assert result.converged


def test_noise_costs_a_bounded_number_of_evaluations():
    generator, evaluations = np.random.default_rng(0), []

    def noise(times):
        evaluations.append(len(times))
        return generator.standard_normal(len(times))

    assert not mean_power(noise, 1.0, 1.0, rtol=1e-6).converged
    assert sum(evaluations) < 2000
