"""A measure of an installed package: found by its entry point, like the built-in ones."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "flatmeter-toy-plugin"
version = "1.0"

[project.entry-points."flatmeter.measures"]
weight_norm = "flatmeter_toy:WeightNorm"
"""

MODULE = '''
"""A whole measure in a page."""

from flatmeter import Estimate, Measure, MeasureSettings, Measurement


class Settings(MeasureSettings):
    squared: bool = False


class WeightNorm(Measure):
    name = "weight_norm"
    title = "Norm of all parameters"
    reference = "no paper"
    Settings = Settings

    def compute(self, context):
        norm = float(context.risk.theta.double().norm())
        return Measurement({"value": Estimate.of_exact(norm**2 if self.settings.squared else norm)})
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory) -> Path:
    """The folder that the toy package was really installed into."""
    source = tmp_path_factory.mktemp("source")
    target = tmp_path_factory.mktemp("site")
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "flatmeter_toy.py").write_text(MODULE)
    if importlib.util.find_spec("hatchling") and importlib.util.find_spec("pip"):
        (source / "pyproject.toml").write_text(
            f'{PROJECT}\n[tool.hatch.build.targets.wheel]\nonly-include = ["flatmeter_toy.py"]\n'
        )
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
        command += ["--no-build-isolation", "--target", str(target), str(source)]
        subprocess.run(command, check=True, capture_output=True, text=True)
    else:
        # What an installer leaves behind, where there is none.
        info = target / "flatmeter_toy_plugin-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flatmeter-toy-plugin\n")
        (info / "entry_points.txt").write_text(
            "[flatmeter.measures]\nweight_norm = flatmeter_toy:WeightNorm\n"
        )
        (target / "flatmeter_toy.py").write_text(MODULE)
    return target


@pytest.fixture
def with_plugin(plugin, process):
    def call(*arguments):
        path = os.pathsep.join(filter(None, [str(plugin), os.environ.get("PYTHONPATH")]))
        child = process(*arguments, env={"PYTHONPATH": path})
        out, err = child.communicate(timeout=120)
        return child.returncode, out, err

    return call


def test_an_installed_plugin_measures(with_plugin, checkpoint):
    code, out, err = with_plugin("measure", checkpoint, "-M", "weight_norm", "-f", "json")
    assert (code, err) == (0, "")
    plain = json.loads(out)["rows"][0]["value"]
    code, out, _ = with_plugin(
        *("measure", checkpoint, "-M", "weight_norm", "-f", "json"),
        *("--set", "weight_norm.squared=true"),
    )
    assert json.loads(out)["rows"][0]["value"] == pytest.approx(plain**2)


def test_it_is_listed_and_its_options_are_in_the_schema(with_plugin):
    assert "weight_norm: Norm of all parameters" in with_plugin("list", "measures")[1]
    schema = json.loads(with_plugin("config", "schema")[1])
    assert "weight_norm" in schema["$defs"]["Options"]["properties"]


def test_without_the_package_there_is_no_such_measure(flatmeter, checkpoint):
    code, _, err = flatmeter("measure", checkpoint, "-M", "weight_norm")
    assert code == 2
    assert "weight_norm" in err


def test_a_file_needs_no_package(flatmeter, checkpoint, tmp_path):
    (tmp_path / "mine.py").write_text(MODULE)
    code, out, _ = flatmeter("measure", checkpoint, "-M", "mine.py:WeightNorm", "-q")
    assert code == 0
    assert "weight_" in out
