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


@pytest.mark.parametrize("line", ['{"a": 1}', "[]", "3", "nonsense", "number"])
def test_foreign_line_is_named(tmp_path, line):
    if line == "number":
        line = json.dumps({**HEAD.to_dict(), "value": float("nan")})
    (tmp_path / "results.jsonl").write_text(line + "\n")
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


def written(folder, name, *rows):
    """A file of results as another writer left it."""
    folder.mkdir(exist_ok=True)
    lines = [json.dumps(row.to_dict()) + "\n" for row in reversed(rows)]
    (folder / name).write_text("".join(lines))


def test_what_is_measured_anew_replaces_the_rows_of_every_writer(tmp_path):
    written(tmp_path, "results-5.jsonl", HEAD, PART)
    with Store(tmp_path) as store:
        assert (store.found, store.found_rows) == (1, 2)
        store.append([replace(HEAD, value=4.0), PART])
        assert [r.revision for r in store.finished("k1", "value")] == [1, 1]
    assert read_groups(tmp_path)["k1"][0].value == 4.0
    with Store(tmp_path) as store:
        store.append([replace(HEAD, value=5.0), PART])
    assert [(r.value, r.revision) for r in read_groups(tmp_path)["k1"]] == [(5.0, 2), (1.0, 2)]


def test_a_value_replaces_the_error_of_another_writer(tmp_path):
    written(tmp_path, "results-5.jsonl", replace(HEAD, status="error", value=None))
    with Store(tmp_path) as store:
        store.append([HEAD])
    assert read_groups(tmp_path)["k1"] == [HEAD]


def test_two_numbers_of_one_key_are_measured_again(tmp_path):
    written(tmp_path, "results-1.jsonl", HEAD)
    written(tmp_path, "results-2.jsonl", replace(HEAD, value=3.0 + 1e-6))
    with Store(tmp_path) as store:
        assert store.finished("k1", "value") == [HEAD]
    written(tmp_path, "results-2.jsonl", replace(HEAD, value=3.01))
    with Store(tmp_path) as store:
        assert store.finished("k1", "value") is None
        store.append([HEAD])
        assert store.finished("k1", "value") == [replace(HEAD, revision=1)]


def test_equal_weights_under_two_names_are_kept_under_both(tmp_path):
    twin = replace(HEAD, checkpoint="b.pt")
    for _ in range(2):
        with Store(tmp_path) as store:
            if store.finished("k1", "value") is None:
                store.append([HEAD])
            store.keep([HEAD])
            store.keep([twin])
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["checkpoint"] for line in lines] == ["a.pt", "b.pt"]


def test_a_measurement_cut_after_a_quantity_of_the_network_is_not_taken_for_whole(tmp_path):
    with Store(tmp_path) as store:
        store.append([OTHER])
        store.append([HEAD, replace(HEAD, quantity="second")])
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert set(read_groups(tmp_path)) == {"k2"}
    with Store(tmp_path) as store:
        store.append([HEAD, replace(HEAD, quantity="second")])
    assert len(path.read_text().splitlines()) == 3


def test_another_machine_has_a_file_of_its_own(tmp_path, monkeypatch):
    """Locks of a network file system may hold on one machine only, as if there were none."""
    with Store(tmp_path) as store:
        store.append([HEAD])
        monkeypatch.setattr("flatmeter.results.writers.this_machine", lambda: "another")
        with Store(tmp_path) as other:
            other.append([OTHER])
    with Store(tmp_path) as store:
        store.append([replace(HEAD, key="k3")])
    assert [len(p.read_text().splitlines()) for p in sorted(tmp_path.glob("*.jsonl"))] == [2, 1]
    assert set(read_groups(tmp_path)) == {"k1", "k2", "k3"}


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    for key in ("k1", "k2", "k3"):
        with Store(tmp_path) as store, Store(tmp_path) as beside:
            store.append([replace(HEAD, key=key)])
            beside.append([replace(HEAD, key=f"{key} beside")])
    assert len(read_groups(tmp_path)) == 6
    assert len(list(tmp_path.glob("results*.jsonl"))) == 6


def test_rows_that_were_finished_are_read_again_from_the_disk(tmp_path):
    """None is kept in memory, whoever has written them and however often."""
    with Store(tmp_path) as store:
        for rows in ([HEAD, PART], [OTHER], [HEAD, PART]):
            store.append(rows)
        again = store.finished("k1", "value")
        assert again == [replace(HEAD, revision=1), replace(PART, revision=1)]
        assert store.finished("k2", "value") == [OTHER]
    with Store(tmp_path) as store:
        assert store.finished("k1", "value") == again
        assert store.finished("k2", "value") == [OTHER]
        assert store.found_rows == 5


def test_a_file_that_was_changed_meanwhile_is_refused(tmp_path):
    with Store(tmp_path) as store:
        store.append([HEAD])
        store.append([OTHER])
        path = tmp_path / "results.jsonl"
        path.write_bytes(path.read_bytes().replace(b'"k2"', b'"k3"'))
        with pytest.raises(OutputError, match="changed meanwhile"):
            store.finished("k2", "value")
        path.write_bytes(b"")
        with pytest.raises(OutputError, match="changed meanwhile"):
            store.finished("k1", "value")


def test_what_a_killed_writer_has_left_is_swept_up_by_the_next(tmp_path):
    """Not what another is writing now."""
    with Store(tmp_path) as store, Store(tmp_path) as other:
        for one, own in ((store, HEAD), (other, OTHER)):
            one.append([own], {"probes": np.arange(3.0)}, "lineage")
            one.describe({})
    left, theirs = "state/.k1.npz.results.tmp", ".run-1.json.results-1.tmp"
    for name in (left, theirs):
        (tmp_path / name).write_bytes(b"half of i")
    with Store(tmp_path):
        assert not (tmp_path / left).exists()
        assert (tmp_path / theirs).exists()
        with Store(tmp_path):
            assert not (tmp_path / theirs).exists()
    assert {p.name for p in (tmp_path / "state").glob("*.npz")} == {"k1.npz", "k2.npz"}
