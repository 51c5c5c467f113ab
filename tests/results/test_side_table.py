import pytest

from flatmeter.errors import UsageError
from flatmeter.results.side_table import join_lines, number_in, read_side_table

CHECKPOINTS = {"runs/a/net.pt": "s1", "runs/b/net.pt": "s2", "runs/b/last.ckpt.pt": "s3"}


@pytest.fixture
def table(tmp_path):
    def write(text, encoding="utf-8"):
        (tmp_path / "side.csv").write_bytes(text.encode(encoding))
        return read_side_table(tmp_path / "side.csv")

    return write


def joined(table, wanted=("gap",)):
    lines, unknown = join_lines(table, CHECKPOINTS, wanted)
    return {name: cells["gap"] for name, (_, cells) in lines.items()}, unknown


def test_names_fit_by_path_by_its_end_and_without_suffix(table):
    side = table("gap,checkpoint\n1,runs/a/net.pt\n2,b/net\n3,last.ckpt\n4,other.pt\n")
    assert joined(side) == (
        {"runs/a/net.pt": "1", "runs/b/net.pt": "2", "runs/b/last.ckpt.pt": "3"},
        ["other.pt"],
    )
    longer = table("path,gap\n/data/runs/a/net.pt,1\n")
    assert joined(longer) == ({"runs/a/net.pt": "1"}, [])


def test_by_hash_and_with_the_mark_of_a_spreadsheet(table):
    assert joined(table("sha256, gap\ns2, 5\n", "utf-8-sig")) == ({"runs/b/net.pt": "5"}, [])


def test_a_name_that_fits_several_is_refused(table):
    with pytest.raises(UsageError, match=r"side.csv:2: 'net.pt' may be any of runs/a/net.pt, runs"):
        joined(table("file,gap\nnet.pt,1\n"))


def test_lines_of_one_checkpoint_must_agree_in_what_is_asked_for(table):
    side = table("name,gap,seed\na/net.pt,1,0\nruns/a/net.pt,1,1\n")
    assert joined(side)[0] == {"runs/a/net.pt": "1"}
    with pytest.raises(UsageError, match=r"side.csv:3: line 2 says something else of runs/a/net.p"):
        joined(side, ("gap", "seed"))


def test_numbers(table):
    side = table("name,gap\na/net.pt,\nb/net.pt,nan\nc,1e-3\nd,3 %\n\n")
    assert [number_in(side, line, "gap") for line in side.lines[:3]] == [None, None, 1e-3]
    with pytest.raises(UsageError, match=r"side.csv:5: gap is '3 %', a number is needed"):
        number_in(side, side.lines[3], "gap")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column that names checkpoints, only: nothing"),
        ("a;b\n1;2\n", "only: a;b"),
        ("name,gap\na\n", "side.csv:2: 1 cells under 2 columns"),
        ("name,gap,gap\n", "two columns are called 'gap'"),
    ],
)
def test_what_is_no_such_table(table, text, message):
    with pytest.raises(UsageError, match=message):
        table(text)


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_side_table(tmp_path / "none.csv")
    (tmp_path / "side.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="no CSV in UTF-8"):
        read_side_table(tmp_path / "side.csv")
