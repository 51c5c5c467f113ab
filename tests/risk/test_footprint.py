"""Bytes alive at once, against what is known to be allocated."""

from __future__ import annotations

import torch

from flatmeter.risk.footprint import Footprint, peak_bytes


def test_live_and_peak_of_known_tensors():
    with Footprint() as footprint:
        a = torch.zeros(1000)
        b = torch.ones(500)
        assert footprint.live == 6000
        del a
        assert footprint.live == 2000
        c = b + b
        assert footprint.live == 4000
        assert footprint.peak == 6000
        del b, c
        assert footprint.live == 0


def test_views_and_in_place_results_are_not_counted_again():
    with Footprint() as footprint:
        a = torch.zeros(10, 10)
        a[2:].add_(1)
        assert a.t().reshape(100).sum() == 80
        # Transposed and laid out anew, and the sum.
        assert footprint.peak <= 400 + 400 + 4 + 1 + 16
        assert a.shape == (10, 10)


def test_what_was_there_before_is_not_counted():
    a = torch.zeros(10**6)

    def work(alive):
        b = a * 2
        assert alive() == 4 * 10**6
        b.mul_(2)

    assert peak_bytes(work, a.device) == 4 * 10**6


def test_a_backward_pass_is_seen():
    w = torch.ones(1000, requires_grad=True)

    def work(alive):
        (g,) = torch.autograd.grad((w.exp()).sum(), w)
        del g

    assert peak_bytes(work, w.device) >= 8000
