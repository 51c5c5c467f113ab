"""Runs of measures that go wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flatmeter import Measure, NotApplicable
from flatmeter.errors import Stopped
from flatmeter.execution import run
from flatmeter.plan import Plan
from flatmeter.runner import as_subject
from flatmeter.watch import Watch


def test_a_stop_that_a_library_caught_is_no_result():
    watch = Watch()

    class Swallowing(Measure):
        name = title = reference = "swallowing"

        def compute(self, context):
            watch.stop("SIGTERM")
            try:
                context.progress("exporting")
            except Exception as error:
                raise NotApplicable("the network cannot be exported") from error

    data = torch.zeros(4, 3), torch.tensor([0, 1, 0, 1])
    subject = as_subject(nn.Linear(3, 2), data=data, loss=None, samples=None, seed=0)
    with pytest.raises(Stopped):
        list(run(subject, Plan(measures=(Swallowing(),)), watch))
