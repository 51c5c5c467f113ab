"""A measurement that goes on from the state of a shorter one is the longer one, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from flatmeter.curvature import deflated_traces
from flatmeter.data.dataset import Dataset
from flatmeter.execution import run
from flatmeter.plan import Plan, choose
from flatmeter.results.store import Store
from flatmeter.risk.custom_loss import load_loss
from flatmeter.runner import as_subject
from flatmeter.watch import Watch


class Tied(nn.Module):
    """A weight used twice, so that traces take probes; smooth, so that Hessians do."""

    def __init__(self):
        super().__init__()
        self.encode, self.head = nn.Linear(5, 4), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(
            torch.tanh(nn.functional.linear(torch.tanh(self.encode(x)), self.encode.weight.T))
        )


# Measure, options, the option that is its budget, a small and a large one, what is drawn.
CASES = {
    "plain": ("hessian_trace", {"method": "hutchinson"}, "max_probes", (20, 41), "probes"),
    "signs": ("hessian_trace", {}, "max_probes", (52, 85), "probes"),
    "deflated": ("hessian_trace", {"method": "hutchpp"}, "max_probes", (52, 85), "probes"),
    "minimum": ("minimum_sharpness", {}, "max_probes", (20, 41), "probes"),
    "quotient": ("quotient_hessian", {}, "max_probes", (20, 41), "probes"),
    "rows": ("quotient_hessian", {"blocks": "row"}, "max_probes", (20, 41), "probes"),
    "density": ("hessian_density", {"steps": 6}, "max_products", (31, 50), "nodes"),
    "adaptive": ("adaptive_sharpness", {"starts": 1}, "samples", (5, 9), "draws"),
}


@pytest.fixture
def measured(tmp_path):
    torch.manual_seed(0)
    net = Tied()
    x, y = torch.randn(40, 5), torch.arange(40) % 3

    def measure(folder, name, options, rtol=1e-9, source_size=None):
        data = Dataset(x, y, "data", source_size=source_size)
        subject = as_subject(net, data=data, loss=load_loss("cross_entropy"), samples=None, seed=0)
        plan = Plan(
            measures=choose(name, {name: options}),
            rtol=rtol,
            dtype="float64",
            batch_size=40,
            strategy="reverse",
        )
        with Store(tmp_path / folder) as store:
            (finished,) = run(subject, plan, Watch(), store.finished, store.state)
            assert not finished.reused
            store.append(finished.rows, finished.state, finished.lineage)
        return finished

    return measure


def same(one, two):
    free = {"seconds": 0, "gradient_equivalents": 0, "peak_bytes": 0}
    assert [row.to_dict() | free for row in one.rows] == [row.to_dict() | free for row in two.rows]
    assert one.state.keys() == two.state.keys()
    for name, array in one.state.items():
        assert np.array_equal(array, two.state[name]), name


@pytest.mark.parametrize("case", CASES)
def test_a_larger_budget_goes_on_from_the_folder(case, measured, monkeypatch):
    name, options, budget, (small, large), drawn = CASES[case]
    if case == "signs":
        monkeypatch.setattr(deflated_traces, "ENOUGH", np.inf)
    # What draws say of groups of samples goes on too.
    source_size = 100 if case in ("plain", "adaptive") else None
    short = measured("one", name, {**options, budget: small}, source_size=source_size)
    extended = measured("one", name, {**options, budget: large}, source_size=source_size)
    scratch = measured("other", name, {**options, budget: large}, source_size=source_size)
    assert 0 < len(short.state[drawn]) < len(scratch.state[drawn])
    same(extended, scratch)
    assert extended.rows[0].gradient_equivalents < scratch.rows[0].gradient_equivalents


def test_a_tighter_tolerance_goes_on_and_a_looser_one_takes_what_it_needs(measured):
    name, options = "hessian_density", {"steps": 6}
    loose, tight = measured("a", name, options, 0.2), measured("b", name, options, 0.08)
    assert len(loose.state["nodes"]) < len(tight.state["nodes"])
    same(measured("a", name, options, 0.08), tight)
    same(measured("b", name, options, 0.2), loose)


def test_other_settings_and_files_that_cannot_be_read_start_from_scratch(measured, tmp_path):
    name = "hessian_density"
    scratch = measured("one", name, {"steps": 6, "max_products": 50})
    assert len(measured("two", name, {"steps": 5, "max_products": 31}).state["nodes"]) > 0
    same(measured("two", name, {"steps": 6, "max_products": 50}), scratch)
    for damage in (lambda p: p.write_bytes(p.read_bytes()[:99]), lambda p: p.unlink()):
        folder = f"damaged{len(list(tmp_path.iterdir()))}"
        measured(folder, name, {"steps": 6, "max_products": 31})
        (state,) = (tmp_path / folder / "state").glob("*.npz")
        damage(state)
        same(measured(folder, name, {"steps": 6, "max_products": 50}), scratch)
