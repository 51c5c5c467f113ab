"""Runs of measures that go wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flatmeter import Estimate, Measure, Measurement, NotApplicable
from flatmeter.errors import Stopped
from flatmeter.execution import run
from flatmeter.plan import Plan, choose
from flatmeter.runner import as_subject
from flatmeter.watch import Watch


@pytest.mark.parametrize("told", [True, False])
def test_a_stop_that_a_library_caught_is_no_result(told):
    watch = Watch()

    class Swallowing(Measure):
        name = title = reference = "swallowing"

        def compute(self, context):
            watch.stop("SIGTERM")
            try:
                context.progress("exporting")
            except Exception as error:
                if told:
                    raise NotApplicable("the network cannot be exported") from error
            return Measurement({"value": Estimate.of_exact(0.0)})

    data = torch.zeros(4, 3), torch.tensor([0, 1, 0, 1])
    subject = as_subject(nn.Linear(3, 2), data=data, loss=None, samples=None, seed=0)
    with pytest.raises(Stopped):
        list(run(subject, Plan(measures=(Swallowing(),)), watch))


def test_batches_of_statistics_are_told_wherever_the_number_depends_on_them():
    kept, none = nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)
    data = torch.randn(12, 3), torch.arange(12) % 3

    def row(*norms, bn_batch):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 3), *norms)
        subject = as_subject(net, data=data, loss=None, samples=None, seed=0)
        plan = Plan(measures=choose("gradient_norm"), bn_batch=bn_batch)
        (finished,) = run(subject, plan, Watch())
        return finished.rows[0]

    for norms, mode, batch in [
        ((kept,), "eval", None),
        ((none,), "batch", 6),
        ((kept, none), "eval", 6),
    ]:
        one = row(*norms, bn_batch=6)
        assert (one.bn_mode, one.bn_batch) == (mode, batch)
        # Parts of 6 and of 12 samples have other statistics, hence other numbers.
        assert (one.key != row(*norms, bn_batch=12).key) == (batch is not None)
