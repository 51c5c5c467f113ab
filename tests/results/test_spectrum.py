from __future__ import annotations

import csv
import importlib.util
import json

import numpy as np
import pytest

from flatmeter.errors import UsageError
from flatmeter.results import spectrum_plot
from flatmeter.results.atomic import OutputError
from flatmeter.results.spectrum_text import CURVE, histogram, to_csv, to_json

GRID = np.linspace(-1.0, 3.0, 50)
STATE = {
    "grid": GRID,
    "density": np.exp(-(GRID**2)),
    "density_low": np.maximum(np.exp(-(GRID**2)) - 0.01, 0.0),
    "density_high": np.exp(-(GRID**2)) + 0.01,
    "cumulative": np.linspace(0.0, 1.0, 50),
    "cumulative_half_width": np.full(50, 0.01),
    "width": np.array(0.1),
    "outliers": np.array([2.5]),
    "nodes": np.zeros((4, 3)),
    "weights": np.full((4, 3), 1 / 3),
    "parameters": np.array(1000),
    "edges": np.array([-1.0, -0.1, 0.1, 1.0, 10.0]),
    "counts": np.array([0.2, 989.0, 9.8, 1.0]),
    "counts_half_width": np.array([0.0, 3.2, 1.0, 0.0]),
}
drawing = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)


def test_the_histogram_shows_what_there_is() -> None:
    lines = histogram("net.pt", STATE, 80).splitlines()
    assert lines[0] == "net.pt: 1000 eigenvalues"
    rows = lines[3:]
    assert [row.strip().split("  ")[0] for row in rows] == [
        "-0.10 … 0.10",
        "0.10 … 1.0",
        "1.0 … 10",
    ]
    assert ["989 ± 4" in rows[0], "10 ± 1" in rows[1], "±" in rows[2]] == [True, True, False]
    bars = [row.count("█") for row in rows]
    assert bars[0] > bars[1] > bars[2] > 0
    assert bars[1] / bars[0] == pytest.approx(np.log(10.8) / np.log(990), abs=0.02)
    assert max(map(len, lines)) <= 80


def test_csv_and_json_hold_the_curve() -> None:
    rows = list(csv.DictReader(to_csv({"a.pt": STATE, "b.pt": STATE}).splitlines()))
    assert len(rows) == 100
    assert (rows[0]["checkpoint"], rows[99]["checkpoint"]) == ("a.pt", "b.pt")
    for column in CURVE:
        found = [float(row[column]) for row in rows[:50]]
        np.testing.assert_array_equal(found, STATE[column])
    (spectrum,) = json.loads(to_json({"a.pt": STATE}))["spectra"]
    assert spectrum["checkpoint"] == "a.pt"
    assert spectrum["outliers"] == [2.5]
    assert spectrum["density"] == STATE["density"].tolist()


@drawing
@pytest.mark.parametrize("ending", spectrum_plot.ENDINGS)
def test_a_picture_of_every_kind(ending: str, tmp_path) -> None:
    path, again = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"
    spectrum_plot.check(path)
    spectrum_plot.draw(path, {"a.pt": STATE, "b.pt": STATE})
    spectrum_plot.draw(again, {"a.pt": STATE, "b.pt": STATE})
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    assert path.read_bytes().startswith(start)
    if ending == "png":
        assert path.read_bytes() == again.read_bytes()
    with pytest.raises(OutputError):
        spectrum_plot.draw(tmp_path / "nowhere" / f"a.{ending}", {"a.pt": STATE})


def test_pictures_that_cannot_be_drawn(tmp_path, monkeypatch) -> None:
    with pytest.raises(UsageError, match="png, svg, pdf"):
        spectrum_plot.check(tmp_path / "a.gif")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install matplotlib"):
        spectrum_plot.check(tmp_path / "a.png")
