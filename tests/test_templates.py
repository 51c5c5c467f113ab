"""Networks that are built once: every checkpoint has its own weights and buffers."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from flatmeter import recognition
from flatmeter.model.infer import Inference
from flatmeter.subject import Loader
from flatmeter.templates import KEPT, Templates

NETS = """
import torch
from torch import nn

built = []


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 3)
        self.register_buffer("mask", torch.ones(width), persistent=False)
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        self.mask.zero_()
        return self.b(self.norm(self.a(x)) * self.mask)


def make(width=5):
    built.append(width)
    return Net(width)
"""


class Counted:
    def __init__(self, make=lambda: nn.Linear(2, 2)):
        self.calls, self.make = 0, make

    def __call__(self):
        self.calls += 1
        return self.make(), {"model": "net"}


def test_a_checkpoint_never_sees_another_ones_numbers(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    x = torch.randn(8, 4), torch.arange(8) % 3
    given = {"model": f"{tmp_path}/nets.py:make", "data": x, "loss": "cross_entropy"}
    scope = {}
    exec(NETS, scope)
    paths = []
    for seed in range(3):
        torch.manual_seed(seed)
        net = scope["make"]()
        nn.init.normal_(net.norm.running_mean)
        if seed == 1:
            net.double()
        torch.save(net.state_dict(), tmp_path / f"{seed}.pt")
        paths.append(tmp_path / f"{seed}.pt")
    loader = Loader(given, project={}, many=True)
    for path in [*paths, *paths]:
        subject, alone = loader.load(path), Loader(given, project={}).load(path)
        assert subject.identity == alone.identity
        for kind in ("named_parameters", "named_buffers"):
            pairs = zip(*(getattr(s.model, kind)() for s in (subject, alone)), strict=True)
            assert all(n == m and a.dtype == b.dtype and a.equal(b) for (n, a), (m, b) in pairs)
        assert subject.model.seen == []
        subject.model(x[0].to(subject.model.a.weight.dtype))
        with torch.no_grad():
            subject.model.a.weight.zero_()
    assert len(sys.modules["flatmeter_user_nets"].built) == 1


def test_built_once_for_each_name_and_its_arguments():
    templates, build = Templates(), Counted()
    for args in ({"n": 1}, {"n": 1.0}, {"n": True}, {"n": [1]}, {"n": (1,)}, {"n": 1}):
        templates.take("net", args, build)
    templates.take("other", {"n": 1}, build)
    assert build.calls == 6


def test_arguments_that_cannot_be_compared_build_anew():
    templates, build = Templates(), Counted()
    for _ in range(2):
        templates.take("net", {"like": object()}, build)
    assert build.calls == 2


def test_the_last_few_are_kept():
    templates, build = Templates(), Counted()
    for n in [*range(KEPT + 1), 0]:
        templates.take("net", {"n": n}, build)
    assert build.calls == KEPT + 2


class Stubborn(nn.Linear):
    def __deepcopy__(self, memo):
        return self


class Single(nn.Linear):
    def __deepcopy__(self, memo):
        raise TypeError("there is only one of it")


@pytest.mark.parametrize("make", [lambda: Stubborn(2, 2), lambda: Single(2, 2), nn.LazyLinear])
def test_what_cannot_be_copied_is_built_anew(make):
    templates = Templates()
    build = Counted(lambda: make(2) if make is nn.LazyLinear else make())
    one, two = (templates.take("net", {}, build)[0] for _ in range(2))
    assert one is not two
    assert build.calls == 2


def test_large_networks_are_not_kept_twice(monkeypatch):
    monkeypatch.setattr("flatmeter.templates.free_memory", lambda device: 64)
    templates, build = Templates(), Counted()
    for _ in range(2):
        templates.take("net", {}, build)
    assert build.calls == 2


def test_what_results_call_it_is_each_ones_own():
    templates, build = Templates(), Counted()
    templates.take("net", {}, build)[1]["key"] = "ema"
    assert templates.take("net", {}, build)[1] == {"model": "net"}
    assert build.calls == 1


def test_names_and_shapes_are_compared_once(monkeypatch):
    asked = []

    def compared(tensors, *, says, where, tell):
        asked.append(where)
        return Inference((), (), says)

    monkeypatch.setattr(recognition, "infer", compared)
    inferred = recognition.inferring_once()
    cases = [("a", 2, ""), ("a", 2, ""), ("a", 3, ""), ("b", 2, ""), ("a", 2, "net"), ("a", 2, "")]
    for number, (name, size, says) in enumerate(cases):
        tensors = {name: torch.randn(size)}
        found = inferred(tensors, says=says, where=str(number), tell=print)
        assert found.says == says
    assert asked == ["0", "2", "3", "4"]
