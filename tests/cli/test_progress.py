import pytest

from flatmeter.cli import progress
from flatmeter.cli.progress import Progress


def test_a_plain_line_now_and_then(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    told = Progress("plain", 4)
    for second in range(0, 100, 10):
        now[0] = float(second)
        told.done = second // 30
        told(f"step {second}")
    assert capsys.readouterr().err.splitlines() == [
        "[2/4] step 30",
        "[3/4] step 60",
        "[4/4] step 90",
    ]


@pytest.mark.parametrize("mode", ["auto", "none"])
def test_nothing_at_once_off_a_terminal(capsys, mode):
    told = Progress(mode, 1)
    told("step")
    told.close()
    assert capsys.readouterr().err == ""
