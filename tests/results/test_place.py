import errno
import os

import pytest

from flatmeter.errors import UsageError
from flatmeter.results import place
from flatmeter.results.atomic import OutputError, output_error


def test_a_folder_is_made_and_left_empty(tmp_path):
    place.check_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_file_is_left_as_it_is(tmp_path):
    path = tmp_path / "a.csv"
    place.check_file(path)
    assert list(tmp_path.iterdir()) == []
    path.write_text("mine")
    place.check_file(path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("check", "name", "text"),
    [
        (place.check_folder, "file", "it is a file, a folder is needed"),
        (place.check_folder, "file/a", "a part of the path is a file"),
        (place.check_file, "file/a.csv", "a part of the path is a file"),
        (place.check_file, "none/a.csv", "there is no such folder\nmake it first"),
        (place.check_file, "folder.csv", "it is a folder, a file is needed"),
    ],
)
def test_unusable_places_are_mistakes_of_the_command(tmp_path, check, name, text):
    (tmp_path / "file").touch()
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UsageError, match=text) as caught:
        check(tmp_path / name)
    assert caught.value.where == str(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    place.check_file(tmp_path / "pipe.csv")


def test_a_full_disk_is_no_mistake_of_the_command():
    full = OSError(errno.ENOSPC, "full")
    with pytest.raises(OutputError), place.beforehand():
        raise output_error(full, "a") from full
