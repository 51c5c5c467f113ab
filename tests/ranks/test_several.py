"""Several processes find what one finds, and fail as one."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("program.py")


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def several(size, part, folder):
    """What so many processes found, all in one go: each takes seconds to start."""
    file, port = folder / "found.json", free_port()
    children = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(rank), str(size), str(port), part, str(file)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        errors = [child.communicate(timeout=200)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    assert not any(child.returncode for child in children), "\n".join(errors)
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def program():
    """The program itself, to be run by this process."""
    spec = importlib.util.spec_from_file_location("several_program", PROGRAM)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program


def check(many, alone):
    """The numbers are those of one process."""
    assert many.keys() == alone.keys()
    for name, found in many.items():
        tolerance = 1e-6 if name == "float32" else 1e-12
        assert found.keys() == alone[name].keys()
        for quantity, numbers in found.items():
            if quantity.endswith("words"):
                assert numbers == alone[name][quantity], (name, quantity)
            else:
                known = [x for x in alone[name][quantity] if x is not None]
                given = [x for x in numbers if x is not None]
                close = pytest.approx(known, rel=tolerance, abs=1e-13)
                assert given == close, (name, quantity)


def test_four_processes_compute_what_one_does(program, tmp_path):
    check(several(4, "computations", tmp_path), program.every_computation(False))


def test_two_processes_measure_what_one_does_and_fail_as_one(program, tmp_path):
    many = several(2, "measures", tmp_path)
    found = many.pop("failures")
    check(many, program.all_measures(False))
    status, _, value = found["hungry"]
    assert status == "ok"
    assert value > 0
    assert found["starving"][0] == "error"
    assert "memory ran out" in found["starving"][1]
    assert found["buggy"][:2] == ["error", "a bug in buggy: KeyError: 'nothing'"]
    assert found["refusing"][:2] == ["n/a", "it has no meaning here"]
    assert found["endless"] == ["Stopped", "stopped by the time limit"]
    kind, message = found["astray"]
    assert kind == "OutOfStep"
    assert "out of step" in message
    kind, message = found["different data"]
    assert kind == "FlatmeterError"
    assert "read different things for gradient_norm" in message
