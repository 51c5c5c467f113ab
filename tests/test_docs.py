"""What the README and the documentation say is true of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

import flatmeter
from flatmeter.cli.main import run
from flatmeter.config.fields import DESCRIPTIONS
from flatmeter.errors import ExitCode
from flatmeter.measures.registry import BUILT_IN, load_measure
from flatmeter.results.record import COLUMNS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
GUIDE = DOCS / "tasks" / "add-a-measure.md"


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def slugs(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and MkDocs make them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    heads = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


def page_of(measure: str) -> str:
    return (DOCS / "measures" / f"{measure}.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from flatmeter.model.registry import build_model

    args = {"hidden": [4]}
    path = tmp_path_factory.mktemp("docs") / "tiny.pt"
    return flatmeter.save(
        path,
        build_model("zoo:mlp", args),
        name="zoo:mlp",
        args=args,
        data="digits",
        loss="cross_entropy",
    )


@pytest.mark.parametrize("page", [README, GUIDE], ids=["README", "guide"])
def test_the_example_of_a_measure_runs(page, checkpoint, tmp_path, capsys):
    (example,) = [code for code in python_blocks(page) if "(Measure)" in code]
    file = tmp_path / "fisher_rao.py"
    file.write_text(example, encoding="utf-8")
    values = []
    for squared in ("false", "true"):
        code = run(
            [
                *("measure", str(checkpoint), "--samples", "20"),
                *("--measure", f"{file}:FisherRao", "--set", f"fisher_rao.squared={squared}"),
                *("--format", "json", "--quiet"),
            ]
        )
        assert code == ExitCode.OK
        (row,) = json.loads(capsys.readouterr().out)["rows"]
        assert row["status"] == "ok"
        values.append(row["value"])
    assert values[0] ** 2 == pytest.approx(values[1])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in slugs(linked), f"{page.name} links to {target}"


def test_every_page_is_in_the_navigation():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def files(entry):
        if isinstance(entry, str):
            return [entry]
        inner = entry.values() if isinstance(entry, dict) else entry
        return [name for part in inner for name in files(part)]

    listed = files(settings["nav"])
    assert sorted(listed) == sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md"))
    assert {f"measures/{name}.md" for name in BUILT_IN} <= set(listed)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_measures_page_names_its_options_defaults_and_quantities(name):
    kind, text = load_measure(name), page_of(name)
    for quantity in kind.quantities:
        assert f"`{quantity}`" in text, quantity
    rows = [line for line in text.splitlines() if line.startswith("|")]
    for option, field in kind.Settings.model_fields.items():
        named = [row for row in rows if f"`{option}`" in row.split("|")[1]]
        assert named, f"{option} is not in the table of options"
        default = json.dumps(field.default) if isinstance(field.default, bool) else field.default
        if field.default is not None:
            shown = re.split(r"[^\w.\-]+", named[-1].split("|")[2])
            numbers = [float(s) for s in shown if re.fullmatch(r"[\d.]+(e-?\d+)?", s)]
            assert str(default) in shown or default in numbers, f"{option}: {default}"
    assert f"Batch-norm mode: `{kind.default_bn}`" in text


def test_every_setting_column_and_exit_code_is_documented():
    settings = (DOCS / "tasks" / "configuration.md").read_text(encoding="utf-8")
    results = (DOCS / "tasks" / "results.md").read_text(encoding="utf-8")
    assert [name for name in DESCRIPTIONS if f"| `{name}` |" not in settings] == []
    assert [name for name in COLUMNS if f"`{name}`" not in results] == []
    assert [int(code) for code in ExitCode if f"| {int(code)} |" not in results] == []


def test_the_readme_says_the_two_commands():
    text = README.read_text(encoding="utf-8")
    assert "pip install . && flatmeter demo" in text
    assert "pip install -c constraints.txt '.[test]' && pytest -n auto" in text
