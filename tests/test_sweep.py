"""What becomes of a checkpoint that is being read when the run is stopped."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from flatmeter.cli.interrupts import Interrupts
from flatmeter.errors import CheckpointRefused, FlatmeterError, Stopped
from flatmeter.plan import Plan
from flatmeter.sweep import sweep
from flatmeter.watch import Watch


class Wrapping:
    """Reads nothing, is stopped meanwhile, and takes that for a failure of the checkpoint."""

    def __init__(self, kind: type[Exception]) -> None:
        self.kind = kind

    def load(self, path):
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception as error:
            raise self.kind(f"cannot be read: {error}") from error


def swept(kind):
    with Interrupts(Watch()) as interrupts:
        return list(sweep([Path("a.pt")], Wrapping(kind), Plan(measures=()), interrupts.watch))


@pytest.mark.parametrize("kind", [FlatmeterError, CheckpointRefused, ValueError])
def test_a_stop_is_no_fault_of_the_checkpoint(kind):
    with pytest.raises(Stopped, match="SIGTERM"):
        swept(kind)
