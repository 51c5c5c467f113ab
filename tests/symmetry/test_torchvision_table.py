"""The table of torchvision's networks: complete, and what two of its rows say is found again."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "tables" / "torchvision_symmetries.py"
SECONDS = slice(-4, -1)
ERRORS = slice(-6, -4)


@pytest.fixture(scope="module")
def table():
    spec = importlib.util.spec_from_file_location("torchvision_symmetries", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows(table):
    lines = table.PAGE.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(table.HEAD))
    found = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found[line.split("`")[1]] = cells(line)
    return found


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_model_is_there_and_no_operator_unknown(table, rows):
    assert sorted(rows) == sorted(table.model_names())
    assert {name for name, row in rows.items() if row[-1] != "none"} == set()


def test_errors_are_rounding_or_vanish_with_eps(rows):
    for name, row in rows.items():
        for error in filter(None, row[ERRORS]):
            assert float(error.split(" → ")[-1]) < 1e-8, name
            assert "→" in error or float(error) <= 1e-12, name


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small"])
def test_a_row_is_found_again(name, table, rows):
    row = table.row_of(name)
    assert row["eval"]["notes"] == row.get("batch", row["eval"])["notes"] == []
    fresh = cells(table.line(row))
    fresh[SECONDS] = fresh[ERRORS] = rows[name][SECONDS] = rows[name][ERRORS] = []
    assert fresh == rows[name]
