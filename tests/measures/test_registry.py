from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from flatmeter.errors import UsageError
from flatmeter.measures import registry
from flatmeter.measures.base import Measure
from flatmeter.measures.registry import BUILT_IN, GROUP, available, load_measure

TOY = """
from flatmeter.estimate import Estimate
from flatmeter.measures.base import Measure, Measurement

class WeightNorm(Measure):
    name = "weight_norm"
    title = "Weight norm"
    reference = "definition"

    def compute(self, context):
        return Measurement({"value": Estimate.of_exact(float(context.risk.theta.norm()))})
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with an entry point, as pip would lay it out."""
    (tmp_path / "toy_measures.py").write_text(TOY)
    info = tmp_path / "toy_measures-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-measures\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{GROUP}]\nweight_norm = toy_measures:WeightNorm\nbroken = toy_measures:Missing\n"
        "gradient_norm = toy_measures:WeightNorm\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toy_measures", raising=False)
    return tmp_path


def test_built_in_measures_are_those_of_the_package_metadata() -> None:
    tomllib = pytest.importorskip("tomllib")
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    project = tomllib.loads(pyproject.read_text())["project"]
    assert project["entry-points"][GROUP] == dict(BUILT_IN)


def test_listing_imports_no_torch() -> None:
    program = (
        "import sys; from flatmeter.measures.registry import available; "
        "assert 'hessian_trace' in available(); assert len(list(available())) >= 9; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_built_in_measure_loads_and_names_itself(name: str) -> None:
    found = load_measure(name)
    assert found.name == name
    assert found.quantities
    assert found.title
    assert found.reference


def test_plugins_are_found_and_cannot_replace_a_built_in_measure(plugin: Path) -> None:
    names = list(available())
    assert names[: len(BUILT_IN)] == list(BUILT_IN)
    assert names[-2:] == ["broken", "weight_norm"]
    assert load_measure("weight_norm").title == "Weight norm"
    assert load_measure("gradient_norm").__module__ == "flatmeter.measures.gradient_norm"


def test_a_broken_plugin_is_named(plugin: Path) -> None:
    with pytest.raises(UsageError, match="toy_measures:Missing cannot be imported"):
        load_measure("broken")


def test_a_class_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(TOY)
    assert issubclass(load_measure(f"{path}:WeightNorm"), Measure)
    with pytest.raises(UsageError, match="is not a measure"):
        load_measure(f"{path}:Estimate")


def test_an_incomplete_class_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "partly.py"
    path.write_text(
        "from flatmeter.measures.base import Measure\nclass Half(Measure):\n    name = 'half'\n"
    )
    with pytest.raises(UsageError, match="does not define compute"):
        load_measure(f"{path}:Half")


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(UsageError) as error:
        load_measure("hesian_trace")
    assert "Did you mean hessian_trace?" in str(error.value)
    with pytest.raises(UsageError, match="no measure is called"):
        load_measure("xyzzy")


def test_a_name_and_one_method_are_enough(tmp_path: Path) -> None:
    path = tmp_path / "least.py"
    path.write_text(
        "from flatmeter.measures.base import Measure\n"
        "class Least(Measure):\n    name = 'least'\n    def compute(self, context): ...\n"
    )
    found = load_measure(f"{path}:Least")
    assert (found.title, found.reference) == ("least", "")


def test_a_broken_plugin_is_told_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("broken", "nowhere_at_all:X", registry.GROUP)
    no_measure = EntryPoint("path", "pathlib:Path", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken, no_measure])
    told: list[str] = []
    found = registry.usable(registry.available(), told.append)
    assert list(found) == list(registry.BUILT_IN)
    assert ["broken" in told[0], "path" in told[1]] == [True, True]
    with pytest.raises(UsageError, match="cannot be imported"):
        load_measure("broken")
