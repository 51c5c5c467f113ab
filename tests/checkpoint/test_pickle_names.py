"""Names in pickles, against what pickletools itself shows of whole files."""

from __future__ import annotations

import collections
import email.errors
import os
import pickle
import types
from pathlib import PurePosixPath

import pytest

from flatmeter.checkpoint.pickle_names import pickle_names


class Runs:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize("protocol", range(6))
def test_names_in_every_protocol(protocol):
    value = [types.SimpleNamespace(a=1), Runs(), PurePosixPath("a"), types.SimpleNamespace(b=2)]
    found = pickle_names(pickle.dumps(value, protocol))
    wanted = ["types.SimpleNamespace", "posix.system", "PurePosixPath"]
    assert all(any(w in name for name in found.unusual) for w in wanted), found
    assert len(found.unusual) == len(set(found.unusual))
    assert not found.whole


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_names_shared_by_the_memo(protocol):
    """The second class of a module fetches the module's name from the memo."""
    value = {"a": email.errors.MessageError, "b": email.errors.HeaderParseError}
    found = pickle_names(pickle.dumps(value, protocol)).unusual
    assert found == ("email.errors.MessageError", "email.errors.HeaderParseError")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_whole(protocol):
    assert pickle_names(pickle.dumps(types.SimpleNamespace(a=1), protocol)).whole
    assert not pickle_names(pickle.dumps({"a": types.SimpleNamespace()}, protocol)).whole


def test_ordinary_names_are_not_told():
    value = {"a": collections.OrderedDict(b=1), "c": {1, 2}, "d": b"bytes"}
    for protocol in (2, 4):
        assert pickle_names(pickle.dumps(value, protocol)).unusual == ()


def test_pickles_before_it_are_skipped():
    data = pickle.dumps(types.SimpleNamespace()) + pickle.dumps(Runs())
    assert pickle_names(data).unusual == ("types.SimpleNamespace",)
    assert pickle_names(data, skip=1).unusual == ("posix.system",)


def test_cut_short_or_nonsense():
    data = pickle.dumps([types.SimpleNamespace(a=1), Runs()])
    for end in range(len(data)):
        pickle_names(data[:end])
    assert "types.SimpleNamespace" in pickle_names(data[: data.find(b"posix")]).unusual
    assert pickle_names(b"\xff\xfe\xfd").unusual == ()
    assert pickle_names(b"").unusual == ()
