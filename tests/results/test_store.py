import errno
import json
import os
import stat
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from flatmeter.results.atomic import OutputError, write_whole
from flatmeter.results.record import Row
from flatmeter.results.store import Store, read_groups

HEAD = Row("a.pt", "00", "trace", "value", 1, value=3.0, key="k1")
PART = replace(HEAD, scope="layer", value=1.0)
OTHER = replace(HEAD, key="k2", measure="norm", value=5.0)


def test_what_was_appended_is_found_by_a_later_run(tmp_path):
    with Store(tmp_path / "out") as store:
        store.append([HEAD, PART], {"probes": np.arange(3.0)})
        store.append([OTHER])
    with Store(tmp_path / "out") as store:
        assert store.finished("k1", "value") == [HEAD, PART]
        assert store.finished("k2", "value") == [OTHER]
        assert store.finished("k3", "value") is None
    with np.load(tmp_path / "out" / "state" / "k1.npz") as state:
        assert state["probes"].tolist() == [0.0, 1.0, 2.0]


def test_headline_reaches_the_disk_last(tmp_path):
    with Store(tmp_path) as store:
        store.append([HEAD, PART])
    scopes = [json.loads(x)["scope"] for x in (tmp_path / "results.jsonl").open()]
    assert scopes == ["layer", "network"]


@pytest.mark.parametrize("cut", [1, 20, 300])
def test_torn_last_line_is_dropped_and_its_measure_repeated(tmp_path, cut):
    with Store(tmp_path) as store:
        store.append([OTHER])
        store.append([HEAD, PART])
    path = tmp_path / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    with Store(tmp_path) as store:
        assert store.finished("k1", "value") is None
        assert store.finished("k2", "value") == [OTHER]
        store.append([HEAD, PART])
    assert read_groups(tmp_path)["k1"] == [HEAD, PART]
    assert all(json.loads(line) for line in path.open())


def test_tear_between_two_lines_is_noticed(tmp_path):
    with Store(tmp_path) as store:
        store.append([HEAD, PART])
    path = tmp_path / "results.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    with Store(tmp_path) as store:
        assert store.finished("k1", "value") is None
        store.append([HEAD, PART])
        assert store.finished("k1", "value") == [HEAD, PART]
    assert read_groups(tmp_path)["k1"] == [HEAD, PART]


def test_measured_anew_the_latest_counts(tmp_path):
    with Store(tmp_path) as store:
        store.append([HEAD, PART])
        store.append([replace(HEAD, value=4.0), replace(PART, value=2.0)])
    assert [r.value for r in read_groups(tmp_path)["k1"]] == [4.0, 2.0]


def test_errors_are_repeated_and_refusals_are_not(tmp_path):
    with Store(tmp_path) as store:
        store.append([replace(HEAD, status="error", value=None)])
        store.append([replace(OTHER, status="n/a", value=None)])
        assert store.finished("k1", "value") is None
        assert store.finished("k2", "value") is not None


SECOND_WRITER = """
import os, sys
from pathlib import Path
from flatmeter.results.record import Row
from flatmeter.results.store import Store

with Store(Path(sys.argv[1])) as store:
    store.append([Row("a.pt", "00", "norm", "value", 1, value=5.0, key="k2")])
    store.describe({"pid": os.getpid()})
"""


def test_two_writers_have_a_file_each_and_readers_merge_them(tmp_path):
    with Store(tmp_path) as store:
        store.append([HEAD])
        subprocess.run([sys.executable, "-c", SECOND_WRITER, str(tmp_path)], check=True)
        store.append([replace(HEAD, key="k3")])
    assert set(read_groups(tmp_path)) == {"k1", "k2", "k3"}
    assert {p.name for p in tmp_path.glob("*.json*")} == {
        "results.jsonl",
        "results-1.jsonl",
        "run-1.json",
    }


def test_full_disk_says_so_and_keeps_what_was_finished(tmp_path, monkeypatch):
    with Store(tmp_path) as store:
        store.append([OTHER])
        fsync = os.fsync

        def full(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="the disk is full"):
            store.append([HEAD, PART])
        monkeypatch.setattr(os, "fsync", fsync)
        store.append([HEAD, PART])
    assert set(read_groups(tmp_path)) == {"k1", "k2"}
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 3


def test_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match=r"a folder is needed|not a folder"):
        Store(tmp_path / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="permission denied"):
        Store(tmp_path / "out")


def test_foreign_line_is_named(tmp_path):
    (tmp_path / "results.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(OutputError, match=r"results.jsonl:1"):
        Store(tmp_path)


def test_log_is_appended(tmp_path):
    with Store(tmp_path) as store:
        store.log("one")
        store.log("two\nlines")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines[0].endswith(" one")
    assert lines[2] == "lines"


def test_a_link_and_a_pipe_are_written_through(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
