"""Signals while something else is going wrong."""

from __future__ import annotations

import os
import signal

import pytest

from flatmeter.cli.interrupts import Interrupts
from flatmeter.errors import DataError, Stopped
from flatmeter.watch import Watch


def fail(error, *, signalled=True):
    """A library swallows what the handler raises, and fails on what it left half done."""
    with Interrupts(Watch()):
        try:
            if signalled:
                os.kill(os.getpid(), signal.SIGTERM)
        except Stopped:
            pass
        raise error


def test_what_fails_after_a_signal_counts_as_stopped():
    with pytest.raises(Stopped, match="SIGTERM"):
        fail(RecursionError())


def test_a_failure_with_a_reason_of_its_own_keeps_it():
    with pytest.raises(DataError):
        fail(DataError("of its own"))


def test_a_failure_without_a_signal_stays_what_it_is():
    with pytest.raises(RecursionError):
        fail(RecursionError(), signalled=False)


def hold(done):
    with Interrupts(Watch()) as interrupts, interrupts.held():
        os.kill(os.getpid(), signal.SIGTERM)
        done.append(True)


def test_a_signal_within_a_held_block_acts_at_its_end():
    done = []
    with pytest.raises(Stopped):
        hold(done)
    assert done
