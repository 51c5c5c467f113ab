import json
from dataclasses import replace

import numpy as np
import pytest

from flatmeter.errors import UsageError
from flatmeter.results.joining import join, write_into
from flatmeter.results.record import Row
from flatmeter.results.store import Store, read_groups


def head(number, *, value=1.0, measure="trace", key=None, **more):
    """The headline of a measurement of checkpoint ``number``."""
    name, key = f"run/e{number}.pt", key or f"{measure} {number}"
    more = {"dtype": "float32", "n_data": 24, **more}
    return Row(name, f"sha {number}", measure, "value", 1, value=value, key=key, **more)


def part(row, **changes):
    return replace(row, scope="layer", **changes)


@pytest.fixture
def folder(tmp_path):
    """Writes measurements, each a list of rows, into a folder."""

    def write(name, *groups):
        with Store(tmp_path / name) as store:
            for rows in groups:
                store.append(rows, {"probes": np.arange(3.0)})
        return tmp_path / name

    return write


def test_shards_are_one_table_in_natural_order(folder):
    shards = [
        folder("a", [head(10)], [head(1), part(head(1))]),
        folder("b", [head(2)], [head(2, measure="norm")]),
        folder("empty"),
    ]
    joined = join(shards)
    assert [(r.checkpoint, r.measure, r.scope) for r in joined.rows] == [
        ("run/e1.pt", "trace", "network"),
        ("run/e1.pt", "trace", "layer"),
        ("run/e2.pt", "trace", "network"),
        ("run/e2.pt", "norm", "network"),
        ("run/e10.pt", "trace", "network"),
    ]
    assert (joined.conflicts, joined.repeated, joined.unfinished) == ([], 0, [])


def test_equal_up_to_rounding_is_taken_once(folder):
    a = folder("a", [head(1, value=3.0, seconds=1.0)])
    b = folder("b", [head(1, value=3.0 + 1e-5, seconds=2.0)], [head(2)])
    joined = join([a, b, a])
    assert [r.value for r in joined.rows] == [3.0, 1.0]
    assert (joined.repeated, joined.conflicts) == (1, [])


@pytest.mark.parametrize(
    ("ours", "theirs", "equal"),
    [
        ({"value": 3.0}, {"value": 3.003}, False),
        ({"value": 3.0}, {"value": 3.003, "rounding": 2e-4}, True),
        ({"value": 3.0, "dtype": "float64"}, {"value": 3.00001, "dtype": "float64"}, False),
        # The mean of probes that cancel is rounded by its terms.
        ({"value": 1e-7, "stderr": 0.1}, {"value": -1e-7, "stderr": 0.1}, True),
        ({"value": 1e-7}, {"value": -1e-7}, False),
        # An eigenvalue is known up to its residual.
        ({"value": 1e-5, "residual": 1e-4}, {"value": 2e-5, "residual": 1e-6}, True),
        ({"value": 3.0, "ci_high": 4.0}, {"value": 3.0, "ci_high": 5.0}, False),
        ({"value": 3.0}, {"value": None, "status": "n/a"}, False),
        ({"value": None, "status": "n/a"}, {"value": None, "status": "n/a"}, True),
    ],
)
def test_what_counts_as_equal(folder, ours, theirs, equal):
    joined = join([folder("a", [head(1, **ours)]), folder("b", [head(1, **theirs)])])
    assert (not joined.conflicts) is equal
    assert len(joined.rows) == equal


def test_different_numbers_are_told_with_their_files_and_none_is_taken(folder):
    a = folder("a", [head(1, value=3.0), part(head(1), value=1.0)], [head(2)])
    b = folder("b", [head(1, value=3.0), part(head(1), value=1.5)])
    joined = join([a, b])
    assert [r.checkpoint for r in joined.rows] == ["run/e2.pt"]
    (conflict,) = joined.conflicts
    assert conflict.message == (
        f"value of layer is 1 in {a}/results.jsonl, 1.5 in {b}/results.jsonl"
    )
    shown = conflict.row()
    assert (shown.value, shown.status, shown.key) == (None, "error", "trace 1")


def test_a_row_that_one_of_them_lacks_is_a_difference(folder):
    joined = join([folder("a", [head(1), part(head(1))]), folder("b", [head(1)])])
    assert "missing in" in joined.conflicts[0].message


def test_three_folders_of_which_one_differs(folder):
    folders = [folder(n, [head(1, value=v)]) for n, v in [("a", 1.0), ("b", 1.0), ("c", 2.0)]]
    (conflict,) = join(folders).conflicts
    assert len(conflict.found) == 3


def test_within_a_folder_what_was_measured_anew_counts(folder):
    a = folder("a", [head(1, value=3.0)], [head(1, value=4.0)])
    assert [r.value for r in join([a]).rows] == [4.0]
    # Between folders it does not: which of them is right is not for a program to say.
    assert join([a, folder("b", [head(1, value=3.0)])]).conflicts


def test_a_value_replaces_errors_whatever_folder_they_are_in(folder):
    lost = head(1, value=None, status="error")
    unread = replace(lost, sha256="", key="", checkpoint="run/e2.pt")
    joined = join([folder("a", [lost], [unread]), folder("b", [head(1)], [head(2)])])
    assert [r.status for r in joined.rows] == ["ok", "ok"]
    assert [r.status for r in join([folder("c", [lost], [unread])]).rows] == ["error", "error"]


def test_equal_weights_stay_under_all_their_names(folder):
    row = head(1)
    a, b = folder("a", [row]), folder("b", [replace(row, checkpoint="best.pt")])
    assert {r.checkpoint for r in join([a, b]).rows} == {"run/e1.pt", "best.pt"}


def test_other_settings_are_other_measurements(folder):
    a, b = folder("a", [head(1)]), folder("b", [head(1, value=2.0, key="other")])
    joined = join([a, b])
    assert [r.value for r in joined.rows] == [1.0, 2.0]
    assert not joined.conflicts


def test_torn_files_are_named(folder):
    a = folder("a", [head(1)], [head(2)])
    path = a / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    joined = join([a])
    assert [r.checkpoint for r in joined.rows] == ["run/e1.pt"]
    assert joined.unfinished == [path]


def test_joined_folder_is_a_folder_of_results(folder, tmp_path):
    a, b = folder("a", [head(1), part(head(1))]), folder("b", [head(2)])
    joined, target = join([a, b]), tmp_path / "all"
    for _ in range(2):
        assert write_into(target, joined) == []
    with Store(target) as store:
        assert store.found == 2
        assert store.finished("trace 1", "value") == [head(1), part(head(1))]
    assert len((target / "results.jsonl").read_text().splitlines()) == 3
    assert (target / "state" / "trace 2.npz").exists()
    assert list(json.loads((target / "run.json").read_text())["merged"]) == [str(a), str(b)]
    assert [r.value for r in join([target]).rows] == [r.value for r in joined.rows]


def test_joining_once_more_adds_what_is_new_and_keeps_what_is_there(folder, tmp_path):
    target = tmp_path / "all"
    a = folder("a", [head(1, value=3.0)])
    write_into(target, join([a]))
    folder("a", [head(1, value=4.0)], [head(2)])
    assert write_into(target, join([a])) == []
    assert [rows[0].value for rows in read_groups(target).values()] == [4.0, 1.0]
    b = folder("b", [head(1, value=5.0)])
    (conflict,) = write_into(target, join([b]))
    assert "4 in " in conflict.message
    assert [rows[0].value for rows in read_groups(target).values()] == [4.0, 1.0]


def test_what_is_no_folder_of_results(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name, text in [("none", "no such"), ("file", "is needed"), ("empty", "no results")]:
        with pytest.raises(UsageError, match=text):
            join([tmp_path / name])
