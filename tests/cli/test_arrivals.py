"""Which checkpoints of a folder are complete, and when; by a clock of the test's own."""

from __future__ import annotations

import os
import shutil
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from flatmeter.cli.arrivals import PATIENCE, Arrivals


class Folder:
    """Something is done to a folder at each look, an interval of 10 s later."""

    def __init__(self, folder: Path, *, most: int | None = None) -> None:
        self.folder, self.said, self.now, self.steps = folder, [], 0.0, []
        self.arrivals = Arrivals(
            folder,
            10.0,
            over=lambda: not self.steps,
            most=most,
            tell=self.said.append,
            waiting=lambda: None,
            clock=lambda: self.now,
            sleep=self.sleep,
        )

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.steps:
            self.steps.pop(0)()

    def given(self, *steps) -> list[tuple[str, float]]:
        """Names of what is given out, and when."""
        self.steps = list(steps)
        return [(path.name, self.now) for path in self.arrivals]


def nothing():
    pass


@pytest.fixture
def source(tmp_path, make_checkpoint):
    """A checkpoint's file, somewhere else."""
    return make_checkpoint(tmp_path / "elsewhere")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "live").mkdir()
    return tmp_path / "live"


def test_each_is_given_out_once_an_interval_after_it_was_seen(folder, source):
    shutil.copy(source, folder / "e0.pt")
    given = Folder(folder).given(nothing, lambda: shutil.copy(source, folder / "e1.pt"), nothing)
    assert given == [("e0.pt", 10.0), ("e1.pt", 30.0)]


def test_they_come_in_the_order_in_which_they_were_written(folder, source):
    for age, name in enumerate(["a.pt", "b.pt", "c.pt"]):
        shutil.copy(source, folder / name)
        os.utime(folder / name, (1000 - age, 1000 - age))
    assert [name for name, _ in Folder(folder).given()] == ["c.pt", "b.pt", "a.pt"]


def test_a_file_that_grows_is_waited_for(folder, source):
    whole, path = source.read_bytes(), folder / "e.pt"

    def grown(part):
        return lambda: path.write_bytes(whole[: round(part * len(whole))])

    watched = Folder(folder)
    given = watched.given(*(grown(part) for part in (0.3, 0.6, 0.9, 1.0)), nothing, nothing)
    assert given == [("e.pt", 50.0)]
    assert watched.said == []


def test_what_stays_damaged_is_given_out_for_what_it_is(folder, source):
    (folder / "torn.pt").write_bytes(source.read_bytes()[:-200])
    watched = Folder(folder)
    assert watched.given() == [("torn.pt", 10.0 * PATIENCE)]
    (said,) = watched.said
    assert "torn.pt cannot be read yet, and is looked at again: the file is damaged" in said


def test_what_is_completed_late_is_waited_for(folder, source):
    whole, path = source.read_bytes(), folder / "e.pt"
    path.write_bytes(whole[:-200])
    later = [*[nothing] * 4, lambda: path.write_bytes(whole), nothing]
    watched = Folder(folder)
    assert watched.given(*later) == [("e.pt", 60.0)]
    assert len(watched.said) == 1


def test_what_is_written_anew_is_given_out_anew(folder, source, make_checkpoint):
    path = folder / "last.pt"
    other = make_checkpoint(source.parent, "other.pt", seed=1)
    shutil.copy(source, path)
    given = Folder(folder).given(nothing, nothing, lambda: shutil.copy(other, path), nothing)
    assert given == [("last.pt", 10.0), ("last.pt", 40.0)]


def test_a_folder_that_is_not_there_yet(tmp_path, source):
    folder = tmp_path / "later"
    watched = Folder(folder)
    steps = [folder.mkdir, lambda: shutil.copy(source, folder / "e.pt"), nothing]
    assert watched.given(nothing, *steps) == [("e.pt", 40.0)]
    assert watched.said == [f"{folder} is not there yet; waiting for it"]


def test_what_has_gone_is_not_waited_for(folder, source):
    shutil.copy(source, folder / "e.pt")
    assert Folder(folder).given(lambda: (folder / "e.pt").unlink(), nothing) == []


def test_most(folder, source):
    for number in range(3):
        shutil.copy(source, folder / f"e{number}.pt")
    watched = Folder(folder, most=2)
    assert [name for name, _ in watched.given(*[nothing] * 9)] == ["e0.pt", "e1.pt"]
    assert watched.now == 10.0


def test_what_needs_trust_is_whole(folder):
    torch.save({"weight": torch.zeros(2), "half": Fraction(1, 2)}, folder / "e.pt")
    watched = Folder(folder)
    assert watched.given() == [("e.pt", 10.0)]
    assert watched.said == []
