from pathlib import Path
from random import Random

import pytest

from flatmeter.config.shard import Shard, check_shard, parse_shard


@pytest.mark.parametrize("text", ["auto", "1/1", "3/100", "100/100"])
def test_parts(text):
    assert check_shard(text) == text


@pytest.mark.parametrize(
    "text", ["", "3", "3/", "/3", "0/3", "4/3", "-1/3", "1.5/3", "1/0", "3/3\n"]
)
def test_what_is_no_part(text):
    with pytest.raises(ValueError, match=r"such as 3/100|counted from 1"):
        check_shard(text)


@pytest.mark.parametrize("count", [1, 3, 7, 40])
def test_parts_are_the_whole_list_once_in_whatever_order_it_is_named(count):
    paths = [Path(f"run{i % 3}/e{i}.pt") for i in range(20)]
    parts = [Shard(k + 1, count).of(paths) for k in range(count)]
    assert sorted(path for part in parts for path in part) == sorted(paths)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    Random(0).shuffle(paths)
    assert [Shard(k + 1, count).of(paths) for k in range(count)] == parts


def test_capitals_and_umlauts_are_sorted_alike_in_all_languages():
    paths = [Path(name) for name in ("b", "ä", "A", "a", "B")]
    assert parse_shard("1/2").of(paths) == [Path("A"), Path("a"), Path("ä")]
