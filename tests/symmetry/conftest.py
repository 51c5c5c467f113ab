"""Networks whose groups are counted by hand, each with the group that is found in it."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import pytest
from known_nets import KNOWN

from flatmeter.risk.space import ParameterSpace
from flatmeter.symmetry.find import find_group


@cache
def _found(name):
    net, x = KNOWN[name].build(), KNOWN[name].inputs()
    space = ParameterSpace.from_module(net)
    named = dict(net.named_parameters())
    flat = space.flatten({n: named[n].detach() for n in space.names})
    group = find_group(net, x, space.names)
    return SimpleNamespace(name=name, net=net, x=x, space=space, flat=flat, group=group)


@pytest.fixture(params=list(KNOWN))
def known(request):
    """One of the networks with inputs, parameters and the group that is found."""
    return _found(request.param)


@pytest.fixture
def found():
    """The same by its name."""
    return _found


@pytest.fixture
def make():
    """Build one of the networks by name."""
    return lambda name: KNOWN[name].build()
