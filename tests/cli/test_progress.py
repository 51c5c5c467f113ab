import pytest

from flatmeter.cli import progress
from flatmeter.cli.progress import Progress, Rate


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


def test_a_rate_counts_what_was_measured_and_not_what_was_found():
    rate = Rate(0.0)
    assert rate.words(5.0, 100) == ""
    for second in (1.0, 2.0, 10.0):
        rate.add(second, reused=True)
    assert rate.words(11.0, 97) == ""
    rate.add(14.0, reused=False)
    assert rate.words(14.0, 96) == ", 15/min, 6.4 min left"
    rate.add(14.0, reused=True)
    rate.add(15.0, reused=False)
    assert rate.words(15.0, 94) == ", 24/min, 3.9 min left"


@pytest.mark.parametrize(
    ("taken", "seconds", "left", "text"),
    [
        (31, 10.0, 4880, ", 3.1/s, 26 min left"),
        (250, 10.0, 4000, ", 25/s, 2.7 min left"),
        (1, 60.0, 2, ", 1/min, 2 min left"),
        (1, 100.0, 1, ", 36/h, 100 s left"),
        (3, 4000.0, 400, ", 2.7/h, 6.2 d left"),
        (7, 1.0, 0, ", 7/s, 0 s left"),
    ],
)
def test_rates_in_words(taken, seconds, left, text):
    rate = Rate(0.0)
    for _ in range(taken):
        rate.add(0.0, reused=False)
    assert rate.words(seconds, left) == text


def test_the_rate_stands_in_the_line(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    told = Progress("plain", 5000)
    told.done = 88
    for _ in range(31):
        now[0] += 1 / 3.1
        told.finished()
    now[0] = 40.0
    told("a.pt: gradient_norm")
    assert capsys.readouterr().err == "[120/5000, 46/min, 105 min left] a.pt: gradient_norm\n"
