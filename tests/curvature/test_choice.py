"""A strategy is chosen by its speed, where it gives the same product, once for like networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flatmeter.curvature import choice
from flatmeter.curvature.products import HessianOperator
from flatmeter.curvature.strategies import GAUSS_NEWTON, HESSIAN
from flatmeter.errors import UsageError


@pytest.fixture(autouse=True)
def forgotten():
    choice._TIMED.clear()


@pytest.fixture
def quickest(monkeypatch):
    """Let one strategy be the quickest, and count what is timed."""

    def make(wanted):
        timed = []

        def seconds(self, strategy, width, at_once, kept):
            timed.append(strategy)
            return 0.1 if strategy == wanted else 1.0

        monkeypatch.setattr(choice._Trial, "seconds", seconds)
        return timed

    return make


def risk_of(make_risk, net=None, **more):
    torch.manual_seed(0)
    net = net or nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    return make_risk(net, torch.randn(20, 4), torch.arange(20) % 3, **more)


@pytest.mark.parametrize("wanted", ["forward", "forward-batched", "reverse-batched", "reverse"])
def test_the_quickest_is_taken(wanted, quickest, make_risk):
    quickest(wanted)
    assert choice.choose(risk_of(make_risk), HESSIAN, 8) == wanted
    assert choice.choose(risk_of(make_risk), GAUSS_NEWTON, 8) == wanted


def test_single_vectors_are_not_taken_several_at_once(quickest, make_risk):
    timed = quickest("reverse")
    choice.choose(risk_of(make_risk), HESSIAN, 1)
    assert timed == ["reverse", "forward"]


def test_a_small_gain_is_none(monkeypatch, make_risk):
    times = {"reverse": 1.0, "forward": 0.9}
    monkeypatch.setattr(choice._Trial, "seconds", lambda self, s, *more: times[s])
    assert choice.choose(risk_of(make_risk), HESSIAN, 1) == "reverse"


def test_networks_that_are_built_alike_are_timed_once(quickest, make_risk):
    timed = quickest("forward")
    for _ in range(3):
        choice.choose(risk_of(make_risk), HESSIAN, 1)
    assert len(timed) == 2
    choice.choose(risk_of(make_risk, nn.Sequential(nn.Linear(4, 3))), HESSIAN, 1)
    assert len(timed) == 4


class Doubled(torch.autograd.Function):
    """Twice the input, with a wrong tangent."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return 2 * g

    @staticmethod
    def jvp(ctx, t):
        return 3 * t


class Counting(nn.Module):
    """Writes to a buffer in every forward pass."""

    def __init__(self):
        super().__init__()
        self.w = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.w(x)


class Wrong(nn.Module):
    """Forward derivatives disagree with backward ones."""

    def __init__(self):
        super().__init__()
        self.w = nn.Linear(4, 3)

    def forward(self, x):
        return Doubled.apply(self.w(x)).tanh()


@pytest.mark.parametrize("kind", [Wrong, Counting])
def test_a_strategy_that_is_wrong_on_this_network_is_not_taken(kind, quickest, make_risk, dense):
    quickest("forward")
    risk = risk_of(make_risk, kind())
    assert choice.choose(risk, HESSIAN, 1) == "reverse"


def test_a_network_like_another_is_looked_at_itself(quickest, make_risk):
    quickest("forward")

    class Switch(Wrong):
        wrong = False

        def forward(self, x):
            z = self.w(x)
            return Doubled.apply(z).tanh() if self.wrong else z.tanh()

    right, other = Switch(), Switch()
    other.wrong = True
    assert choice.choose(risk_of(make_risk, right), HESSIAN, 1) == "forward"
    assert choice.choose(risk_of(make_risk, other), HESSIAN, 1) == "reverse"


def test_one_that_fails_is_left_out(make_risk):
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Linear(4, 3)

        def forward(self, x):
            return Once.apply(self.w(x)).tanh()

    risk = risk_of(make_risk, Net())
    assert set(choice.seconds(risk, HESSIAN, 4)) <= {"reverse", "reverse-batched"}
    assert HessianOperator(risk).matmat(torch.ones(1, risk.space.dim).double()).isfinite().all()


def test_a_strategy_that_is_named_is_taken(quickest, make_risk):
    timed = quickest("forward")
    assert choice.choose(risk_of(make_risk, strategy="reverse-batched"), HESSIAN, 4) == (
        "reverse-batched"
    )
    assert not timed


def test_deterministic_runs_do_not_depend_on_a_clock(quickest, make_risk):
    quickest("forward")
    torch.use_deterministic_algorithms(True)
    try:
        assert choice.choose(risk_of(make_risk), HESSIAN, 1) == "reverse"
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_trial_leaves_cost_and_network_alone(make_risk):
    risk = risk_of(make_risk)
    before = {n: b.clone() for n, b in risk.module.state_dict().items()}
    times = choice.seconds(risk, HESSIAN, 16)
    assert set(times) == {"reverse", "reverse-batched", "forward", "forward-batched"}
    assert all(t > 0 for t in times.values())
    assert risk.cost.gradient_equivalents == 0
    assert all(torch.equal(before[n], b) for n, b in risk.module.state_dict().items())


class Padded(nn.Module):
    """A row of the embedding that backward derivatives hold fixed, in the last sample only."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(6, 4, padding_idx=0)
        self.head = nn.Linear(4, 3)
        with torch.no_grad():
            self.words.weight[0] = 1.0

    def forward(self, x):
        return self.head(self.words(x).mean(1).tanh())


@pytest.mark.parametrize("strategy", ["forward", "forward-batched"])
def test_all_data_are_looked_at(strategy, quickest, make_risk, dense):
    quickest(strategy)
    torch.manual_seed(0)
    x = torch.randint(1, 6, (200, 3))
    y = torch.arange(200) % 3
    V = torch.randn(4, Padded().words.weight.numel() + 15, dtype=torch.float64)
    assert choice.choose(make_risk(Padded(), x, y), HESSIAN, 4) == strategy
    x[-1] = 0
    risk = make_risk(Padded(), x, y)
    assert choice.choose(risk, HESSIAN, 4) == "reverse"
    torch.testing.assert_close(HessianOperator(risk).matmat(V), V @ dense.hessian(risk))


@pytest.mark.parametrize("kind", [Wrong, Counting])
def test_a_strategy_that_is_named_and_wrong_is_refused(kind, make_risk):
    risk = risk_of(make_risk, kind(), strategy="forward")
    with pytest.raises(UsageError, match="does not give the product of reverse"):
        HessianOperator(risk).matmat(torch.ones(1, risk.space.dim))


def test_an_operator_goes_on_after_another_has_run_out_of_memory(make_risk):
    risk = risk_of(make_risk, strategy="reverse")
    operator = HessianOperator(risk)
    V = torch.randn(2, risk.space.dim, dtype=torch.float64)
    first = operator.matmat(V)
    assert risk.memory.retreat(1, kept=True)
    for _ in range(3):
        torch.testing.assert_close(operator.matmat(V), first)


def test_no_vector_has_no_image(make_risk):
    risk = risk_of(make_risk)
    assert HessianOperator(risk).matmat(torch.zeros(0, risk.space.dim)).shape[0] == 0
