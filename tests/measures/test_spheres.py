import math
from types import SimpleNamespace

import pytest
import torch

from flatmeter.measures.spheres import GeodesicPath, Spheres, StraightPath


def block(*indices):
    return SimpleNamespace(name=str(indices[0]), indices=torch.tensor(indices))


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


THETA = vector(3.0, 9.0, 4.0, 1.0, 0.0, 0.0, 5.0, 12.0)
BLOCKS = [block(0, 2), block(3), block(4, 5), block(6, 7)]


def test_single_entries_and_zeros_are_never_moved():
    spheres = Spheres(THETA, BLOCKS)
    assert [b.name for b in spheres.blocks] == ["0", "6"]
    assert spheres.radii.tolist() == [5.0, 13.0]
    path = StraightPath(spheres, torch.ones(4, dtype=torch.float64))
    moved = path(0.1)
    assert moved.tolist() == pytest.approx([3.5, 9.0, 4.5, 1.0, 0.0, 0.0, 6.3, 13.3])


def test_directions_are_tangent_and_of_norm_one():
    noise = torch.randn(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for joint, norms in ((False, [1.0, 1.0]), (True, None)):
        spheres = Spheres(THETA, BLOCKS, joint=joint)
        v = spheres.direction(noise, torch.zeros(4, dtype=torch.float64))
        assert spheres.sums(v * spheres.unit).abs().max() < 1e-15
        if norms:
            assert spheres.norms(v).tolist() == pytest.approx(norms)
        assert float(v.norm()) == pytest.approx(1.0 if joint else 2**0.5)


def test_a_block_without_gradient_keeps_its_direction():
    spheres = Spheres(THETA, BLOCKS)
    kept = vector(0.8, -0.6, 12 / 13, -5 / 13)
    found = spheres.direction(vector(0.0, 0.0, 1.0, 0.0), kept)
    assert found[:2].tolist() == [0.8, -0.6]
    # What is left of a vector along θ is rounding, not a direction.
    assert torch.equal(spheres.direction(spheres.unit * 1e6, kept), kept)


def test_geodesics_stay_on_the_spheres_and_have_unit_speed():
    spheres = Spheres(THETA, BLOCKS)
    v = spheres.direction(vector(1.0, 0.3, -0.5, 0.2), torch.zeros(4, dtype=torch.float64))
    path = GeodesicPath(spheres, v)
    there = path(0.7)[spheres.index]
    assert spheres.norms(there).tolist() == pytest.approx([5.0, 13.0])
    angles = torch.acos(spheres.sums(there * spheres.unit) / spheres.radii)
    assert angles.tolist() == pytest.approx([0.7, 0.7])
    straight, small = StraightPath(spheres, v), 1e-4
    assert (path(small) - straight(small)).abs().max() < 13 * small**2
    assert math.isfinite(float(path(0.0).sum()))


def test_no_block_at_all():
    spheres = Spheres(THETA, [block(3), block(4, 5)])
    assert spheres.blocks == ()
    assert len(spheres.index) == 0
