"""``flatmeter watch``: what is printed and kept, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from flatmeter.errors import CheckpointRefused
from flatmeter.subject import Loader

MEASURE = ("-M", "gradient_norm", "--interval", "0.05s")


@pytest.fixture
def live(checkpoint, make_checkpoint):
    """A folder with two checkpoints, and a file that says that there will be no more."""
    for number in range(2):
        make_checkpoint(Path("live"), f"e{number}.pt", seed=number)
    Path("stop").touch()
    return Path("live")


def kept():
    files = Path("out").glob("results.jsonl")
    rows = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    return [row["checkpoint"] for row in rows if row["scope"] == "network"]


def test_a_line_for_each_until_the_stop_file(flatmeter, live):
    watch = ("watch", "live", *MEASURE, "-o", "out", "--stop-file", "stop")
    code, out, err = flatmeter(*watch, "-q")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first.startswith("live/e0.pt  loss ")
    assert "  n 24  gradient_norm " in first
    assert second.startswith("live/e1.pt  ")
    assert kept() == ["live/e0.pt", "live/e1.pt"]
    code, again, err = flatmeter(*watch)
    assert (code, again) == (0, out)
    assert "measured already: 2 of 2 measurements" in err
    assert kept() == ["live/e0.pt", "live/e1.pt"]


def test_other_formats_and_a_count(flatmeter, live):
    code, out, _ = flatmeter("watch", "live", *MEASURE, "-f", "jsonl", "--count", 1, "-q")
    assert code == 0
    assert [json.loads(line)["checkpoint"] for line in out.splitlines()] == ["live/e0.pt"]
    code, out, _ = flatmeter("watch", "live", *MEASURE, "-f", "csv", "--count", 2, "-q")
    assert [line.split(",")[1] for line in out.splitlines()[1:]] == ["live/e0.pt", "live/e1.pt"]


def test_what_changes_while_it_is_read_has_not_failed(
    flatmeter, live, make_checkpoint, monkeypatch
):
    load, names = Loader.load, []

    def changing(loader, path):
        names.append(path.name)
        if names == ["e0.pt"]:
            make_checkpoint(live, "e0.pt", seed=5)
            raise CheckpointRefused("half of it is new", where=str(path))
        return load(loader, path)

    monkeypatch.setattr(Loader, "load", changing)
    code, out, err = flatmeter(
        "watch", "live", *MEASURE, "-o", "out", "--stop-file", "stop", "--count", 2
    )
    assert code == 0, err
    assert names == ["e0.pt", "e1.pt", "e0.pt"]
    assert "live/e0.pt has changed, and is looked at again" in err
    assert [line.split()[0] for line in out.splitlines()] == ["live/e1.pt", "live/e0.pt"]
    assert kept() == ["live/e1.pt", "live/e0.pt"]


@pytest.mark.parametrize(
    ("number", "code", "told"),
    [(signal.SIGTERM, 75, "stopped by SIGTERM"), (signal.SIGINT, 130, "stopped by Ctrl-C")],
)
def test_signals_end_it(flatmeter, live, number, code, told):
    def send():
        limit = time.monotonic() + 60
        while time.monotonic() < limit and len(kept()) < 2:
            time.sleep(0.05)
        time.sleep(0.1)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    ended, out, err = flatmeter("watch", "live", *MEASURE, "-o", "out")
    sender.join()
    assert ended == code
    assert len(out.splitlines()) == 2
    assert f"{told}; what was finished is kept in out\n" in err


def test_the_time_limit_ends_it(flatmeter, live):
    code, _, err = flatmeter("watch", "live", *MEASURE, "--max-time", "2s")
    assert code == 75
    assert "stopped by the time limit" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a.pt"], "a.pt: this is a file, and a folder is watched"),
        (["live", "--interval", "soon"], "--interval: 'soon' is not a duration"),
        (["live", "-c", "shard.yaml"], "--shard: what is still to come has no parts"),
        (["live", "-M", "nonsense"], "nonsense"),
        (["live", "--count", "0"], "--count"),
    ],
)
def test_what_cannot_be_watched(flatmeter, live, arguments, told):
    Path("shard.yaml").write_text("shard: 1/2\n")
    code, out, err = flatmeter("watch", *arguments)
    assert (code, out) == (2, "")
    assert told in err
