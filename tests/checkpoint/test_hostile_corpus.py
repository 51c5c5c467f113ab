"""A corpus of hostile files, each answered in a sentence, soon and in little memory.

All of it is read in one process that is not this one, so that its memory can be told.
``FLATMETER_WHOLE_CORPUS=1`` makes it a thousand files with bits turned over, and cuts at every
kilobyte.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import hostile_files
import hostile_reader
import pytest

WHOLE = "FLATMETER_WHOLE_CORPUS" in os.environ
MIB = 1 << 20
#: Above three times the file: what the interpreter takes for objects that a small pickle may hold.
CONSTANT = 64 * MIB
SECONDS = 5.0

#: Read for good reason: nothing in them is false, or only what nobody reads.
SOUND = {
    "zips/long-name", "zips/comment", "headers/padded", "poisoned/bag-itself",
}  # fmt: skip


@pytest.fixture(scope="module")
def marker(tmp_path_factory):
    return tmp_path_factory.mktemp("marker") / "ran"


@pytest.fixture(scope="module")
def answers(tmp_path_factory, marker):
    """What was said of every file, by its path below the corpus."""
    folder = tmp_path_factory.mktemp("corpus")
    flips, step = (999, 1024) if WHOLE else (99, 4096)
    paths = list(hostile_files.everything(folder, marker, flips=flips, step=step))
    listed = folder / "list"
    listed.write_text("\n".join(map(str, paths)))
    done = subprocess.run(
        [sys.executable, hostile_reader.__file__, str(listed)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(paths), f"it ended with {done.returncode}: {done.stderr[-2000:]}"
    return {str(Path(row["path"]).relative_to(folder)): row for row in rows}


@pytest.fixture(scope="module")
def faults(answers):
    """Names of files whose answer fails a test, with the answer."""

    def failing(fails):
        return {name: row for name, row in answers.items() if fails(name, row)}

    return failing


def test_the_marker_is_what_the_payloads_would_create(tmp_path):
    """The corpus would be worth nothing if its code could not run."""
    witness = tmp_path / "ran"
    pickles = hostile_files.payloads(witness)
    ran = []
    for way in ("reduce", "inst", "obj", "stack-global", "nested", "eval", "build-setstate"):
        subprocess.run(
            [sys.executable, "-c", "import pickle, sys; pickle.load(sys.stdin.buffer)"],
            input=pickles[way],
            capture_output=True,
        )
        if witness.exists():
            ran.append(way)
            witness.unlink()
    assert ran == ["reduce", "inst", "obj", "stack-global", "nested", "eval", "build-setstate"]


def test_nothing_runs(answers, marker):
    assert len(answers) > 600
    assert not marker.exists()


def test_code_is_refused(faults):
    assert not faults(lambda name, row: name.startswith("code/") and row["code"] != 3)


def test_every_answer_is_a_refusal_or_a_mismatch(faults):
    """Bits turned over in a weight are no matter of form, and may pass."""
    assert not faults(
        lambda name, row: (
            row["code"] not in (3, 4)
            and not (row["code"] == 0 and (name in SOUND or name.startswith("bent/flip")))
        )
    )


def test_every_refusal_is_a_sentence(faults):
    assert not faults(
        lambda name, row: (
            row["code"] and not (0 < len(row["message"]) <= 400 and row["message"].isprintable())
        )
    )


def test_no_file_takes_memory_out_of_proportion(faults):
    def size(row):
        path = Path(row["path"])
        return path.stat().st_size if path.is_file() else 0

    assert not faults(lambda name, row: row["bytes"] > 3 * size(row) + CONSTANT)


def test_every_answer_comes_soon(faults):
    assert not faults(lambda name, row: row["seconds"] > SECONDS)
