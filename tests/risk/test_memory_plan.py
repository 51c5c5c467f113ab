"""The plan of memory follows what is free, and products stay within it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from flatmeter.curvature.products import HessianOperator
from flatmeter.risk import memory_plan
from flatmeter.risk.appetite import Appetite
from flatmeter.risk.memory_plan import SHARE, MemoryPlan

CPU = torch.device("cpu")


@pytest.fixture
def free(monkeypatch):
    """Pretend that so many bytes are free."""

    def set_to(count):
        monkeypatch.setattr(memory_plan, "free_memory", lambda device: count)

    return set_to


def plan(kept=100, passing=150, sharing=1):
    return MemoryPlan(lambda budget: Appetite(kept, passing), CPU, sharing)


def test_half_the_memory_has_half_the_room(free):
    free(150 * 400)
    assert plan().batch == 100
    assert plan(sharing=2).batch == 50
    free(150 * 200)
    assert plan().batch == 50


def test_there_is_always_one_sample_and_one_vector(free):
    free(1)
    assert plan().batch == 1
    assert plan().vectors_at_once(1, 16) == 1


def test_graphs_are_kept_where_those_of_all_samples_fit(free):
    free(int((150 * 10 + 100 * 90) / SHARE))
    assert plan().keeps_graphs(batch=10, held=100)
    assert not plan().keeps_graphs(batch=10, held=101)


def test_vectors_at_once_share_the_room(free):
    free(int(150 * 10 * 5 / SHARE))
    assert plan().vectors_at_once(batch=10, k=16) == 5
    assert plan().vectors_at_once(batch=10, k=3) == 3


def test_few_vectors_keep_a_device_busy_with_a_large_batch(free):
    free(10**12)
    assert plan(kept=2**18).vectors_at_once(batch=256, k=64) == memory_plan.TOGETHER
    assert plan(kept=2**18).vectors_at_once(batch=16, k=64) == 64


def test_a_retreat_halves_the_vectors_then_keeps_no_graph(free):
    free(10**9)
    taken = plan()
    assert taken.retreat(at_once=8, kept=True)
    assert taken.vectors_at_once(1, 8) == 4
    assert taken.retreat(at_once=1, kept=True)
    assert not taken.keeps_graphs(1, 1)
    assert not taken.retreat(at_once=1, kept=False)


def test_graphs_are_kept_only_where_no_batch_size_was_asked_for(make_risk, free):
    free(2**20)
    x, y = torch.randn(2000, 4), torch.zeros(2000, dtype=torch.long)
    few, many, given = (
        make_risk(nn.Sequential(nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 2)), x[:n], y[:n], **kw)
        for n, kw in ((20, {}), (2000, {}), (20, {"batch_size": 20}))
    )
    assert few.graphs_fit
    assert many.batch_size < memory_plan.MAX_BATCH
    assert not many.graphs_fit
    assert not given.graphs_fit


def test_neither_the_weights_nor_the_other_samples_count_for_each(make_risk):
    x, y = torch.randn(1000, 40), torch.zeros(1000, dtype=torch.long)
    net = nn.Sequential(nn.Linear(40, 100), nn.Tanh(), nn.Linear(100, 2))
    taken = make_risk(net, x, y).memory.appetite
    # Some tensors as wide as the hidden layer, in float64.
    assert 8 * 100 < taken.kept <= taken.passing < 20 * 8 * 100


def nets():
    torch.manual_seed(0)
    conv = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1600, 10),
    )
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    words = nn.Sequential(nn.Embedding(20, 32), layer, nn.Flatten(), nn.Linear(32 * 8, 10))
    mlp = nn.Sequential(*[m for _ in range(3) for m in (nn.Linear(64, 64), nn.ReLU())])
    return {
        "mlp": (mlp, torch.randn(1000, 64)),
        "conv": (conv, torch.randn(300, 1, 28, 28)),
        "attention": (words, torch.randint(0, 20, (300, 8))),
    }


NETS = nets()


def allocated(work):
    """Most bytes at once, by PyTorch's own account of every allocation."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    events = record.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


@pytest.mark.parametrize("name", list(NETS))
@pytest.mark.parametrize("batch_size", [None, 100])
def test_products_stay_within_the_plan_by_a_fifth(name, batch_size, make_risk):
    net, x = NETS[name]
    risk = make_risk(net, x, torch.arange(len(x)) % 10, batch_size=batch_size, strategy="reverse")
    V = torch.randn(1, risk.space.dim, dtype=torch.float64)
    # Accumulators and results besides.
    planned = risk.product_bytes + 8 * 8 * risk.space.dim
    assert risk.graphs_fit == (batch_size is None)
    taken = allocated(lambda: HessianOperator(risk).matmat(V))
    assert taken < 1.2 * planned
    # And it is no plan to ask for far more than is taken.
    assert planned < 1.6 * taken


def test_columns_at_once_follow_the_room_and_a_retreat(free):
    free(int(100 * 7 / SHARE))
    taken = plan()
    assert taken.columns_at_once(100, 9) == 7
    assert taken.columns_at_once(1000, 9) == 1
    assert taken.halve("columns", 7)
    assert taken.columns_at_once(100, 9) == 3
    assert not taken.halve("columns", 1)
    assert taken.vectors_at_once(1, 2) == 2
