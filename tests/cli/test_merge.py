"""``flatmeter merge``, on rows written by hand: nothing is measured."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from flatmeter.results.record import Row
from flatmeter.results.store import Store


@pytest.fixture
def shards(tmp_path, monkeypatch):
    """``a`` and ``b``, which share the second of three checkpoints."""
    monkeypatch.chdir(tmp_path)

    def row(number, value=1.5, **more):
        name, key = f"run/e{number}.pt", f"key {number}"
        return Row(name, "sha", "trace", "value", 1, value=value, stderr=0.0, key=key, **more)

    def write(name, *rows):
        with Store(tmp_path / name) as store:
            for one in rows:
                store.append([one, replace(one, scope="layer")])

    write("a", row(1), row(2))
    write("b", row(2), row(3))
    write.row = row
    return write


def test_table_of_shards(flatmeter, shards):
    code, out, err = flatmeter("merge", "a", "b")
    assert code == 0
    assert (
        err == "note: 1 measurement found more than once, with equal numbers: each is taken once\n"
    )
    assert [line.split()[0] for line in out.splitlines()[-3:]] == ["e1.pt", "e2.pt", "e3.pt"]


@pytest.mark.parametrize("flags", [(), ("--per-layer",)])
def test_rows_in_other_formats(flatmeter, shards, flags):
    document = json.loads(flatmeter("merge", "a", "b", "-f", "json", *flags)[1])
    assert set(document["run"]["merged"]) == {"a", "b"}
    rows = list(csv.DictReader(io.StringIO(flatmeter("merge", "a", "b", "-f", "csv", *flags)[1])))
    assert [r["checkpoint"] for r in rows] == [r["checkpoint"] for r in document["rows"]]
    assert len(rows) == (6 if flags else 3)
    lines = flatmeter("merge", "a", "b", "-f", "jsonl", *flags)[1].splitlines()
    assert [json.loads(line) for line in lines] == document["rows"]


def test_contradictions_are_listed_and_shown_as_errors(flatmeter, shards, tmp_path):
    shards("c", shards.row(3, value=1.6))
    code, out, err = flatmeter("merge", "a", "b", "c", "-f", "csv", "-o", "all")
    assert code == 1
    assert (
        "flatmeter: error: run/e3.pt: trace: different numbers: value is 1.5 in "
        "b/results.jsonl, 1.6 in c/results.jsonl\n"
    ) in err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(r["checkpoint"], r["status"]) for r in rows] == [
        ("run/e1.pt", "ok"),
        ("run/e2.pt", "ok"),
        ("run/e3.pt", "error"),
    ]
    with Store(tmp_path / "all") as store:
        assert store.found == 2


def test_into_a_folder_and_a_file(flatmeter, shards, tmp_path):
    (tmp_path / "flatmeter.yaml").write_text("out: elsewhere\nexport: [lost.csv]\n")
    code, out, err = flatmeter("merge", "a", "b", "-o", "all", "--export", "all.csv")
    assert (code, out) == (0, "")
    assert err.endswith(
        "note: all holds 6 rows of 3 measurements of 3 checkpoints from 2 folders\n"
    )
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 4
    assert not (tmp_path / "elsewhere").exists()
    assert not (tmp_path / "lost.csv").exists()


def test_several_settings_are_several_lines(flatmeter, shards):
    shards("c", replace(shards.row(1), key="other", value=2.5, seed=1))
    code, out, _ = flatmeter("merge", "a", "c")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert [line[-3] for line in lines if line[:1] == ["e1.pt"]] == ["1.500", "2.500"]
    assert ["e1.pt", "(2)"] in [line[:2] for line in lines]
    assert "(2), (3), …: measured of a checkpoint of this name with other settings" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "no folder of results is named"),
        (["none"], "none: no such folder"),
        (["a", "--columns", "tarce"], "did you mean trace?"),
        (["a", "-o", "a/results.jsonl"], "a/results.jsonl: cannot write"),
    ],
)
def test_mistakes(flatmeter, shards, arguments, text):
    code, out, err = flatmeter("merge", *arguments)
    assert (code, out) == (2, "")
    assert text in err


def test_nothing_finished(flatmeter, shards):
    shards("empty")
    assert flatmeter("merge", "empty") == (0, "", "note: nothing is finished there\n")
