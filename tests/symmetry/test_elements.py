"""Random elements and the balanced one, against what defines them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import functional_call

from flatmeter.symmetry.channel_dimension import channel_dimension
from flatmeter.symmetry.elements import balanced_factors, random_factors


def outputs(known, flat):
    return functional_call(known.net, known.space.unflatten(flat), (known.x,)).detach()


@pytest.mark.parametrize("channels", [False, True])
def test_random_elements_are_powers_of_two_and_change_no_output(known, channels):
    factors = random_factors(known.group, known.space, 3, size=2, channels=channels)
    exponents = torch.log2(factors)
    assert torch.equal(exponents, exponents.round())
    dimension = channel_dimension(known.group.channels) if channels else known.group.dim
    assert bool((factors != 1).any()) is (dimension > 0)
    before, after = (outputs(known, f) for f in (known.flat, known.flat * factors))
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


def test_random_elements_depend_on_the_seed_and_move_every_symmetry(found):
    known = found("mlp")
    drawn = [random_factors(known.group, known.space, s, size=3, channels=False) for s in range(20)]
    first = torch.stack([f[known.space.slice("0.weight")][0] for f in drawn]).log2()
    assert set(first.tolist()) == {-3, -2, -1, 1, 2, 3}
    again = random_factors(known.group, known.space, 0, size=3, channels=False)
    assert torch.equal(drawn[0], again)


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("name", ["mlp", "residual", "attention", "concatenated", "u-net"])
def test_the_balanced_element_is_the_minimum(found, name, channels):
    known = found(name)
    least = balanced_factors(known.group, known.space, known.flat, channels=channels)
    assert least.certified
    there = known.flat * least.factors
    torch.testing.assert_close(outputs(known, there), outputs(known, known.flat))
    assert least.before == pytest.approx(float(known.flat.square().sum()), rel=1e-12)
    kept = known.flat.clone()
    for tensor in least.falling:
        kept[known.space.slice(tensor)] = 0.0
    if least.attained:
        assert float(there.square().sum()) == pytest.approx(least.after, rel=1e-9)
    # The law of the minimum: what grows weighs as much as what shrinks.
    if not channels:
        squares = (kept * least.factors).square()
        norms = np.array([float(part.sum()) for part in squares.split(known.space.sizes)])
        assert np.abs(known.group.basis.T @ norms).max() <= 1e-9 * norms.sum()


@pytest.mark.parametrize("channels", [False, True])
def test_every_network_on_an_orbit_is_taken_to_the_same_point(found, channels):
    known = found("residual")
    moved = known.flat * random_factors(known.group, known.space, 1, size=3, channels=channels)
    here, there = (
        flat * balanced_factors(known.group, known.space, flat, channels=channels).factors
        for flat in (known.flat, moved)
    )
    torch.testing.assert_close(here, there, rtol=1e-6, atol=1e-9)


def test_two_layers_by_hand(found):
    """The least of ``e^{2a} A + e^{-2a} B`` is ``2 √(AB)``."""
    known = found("concatenated")
    least = balanced_factors(known.group, known.space, known.flat, channels=False)
    norms = {n: float(t.square().sum()) for n, t in known.space.unflatten(known.flat).items()}
    inner = sum(v for n, v in norms.items() if not n.startswith("head"))
    by_hand = 2 * (inner * norms["head.weight"]) ** 0.5 + norms["head.bias"]
    assert least.after == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("channels", [False, True])
def test_what_can_be_scaled_to_nothing_has_no_minimum_and_stays(found, channels):
    known = found("batch-norm, own")
    least = balanced_factors(known.group, known.space, known.flat, channels=channels)
    assert not least.attained
    assert {"0.weight", "0.bias", "3.weight"} <= set(least.falling)
    assert "8.weight" not in least.falling
    for name in ("0.weight", "0.bias"):
        assert (least.factors[known.space.slice(name)] == 1).all()
    there = known.flat * least.factors
    torch.testing.assert_close(outputs(known, there), outputs(known, known.flat))
