"""``flatmeter list``: what can be named on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import click

from flatmeter.cli.choice import Choice
from flatmeter.cli.streams import page_width, say, write_out


def _measures() -> str:
    from flatmeter.measures.registry import available, usable

    blocks = []
    for name in usable(available(), say):
        kind = available()[name]
        options = {k: f.default for k, f in kind.Settings.model_fields.items()}
        facts = {
            "invariant to": ", ".join(kind.invariant_to) or "nothing",
            "needs": ", ".join(kind.requires),
            "batch-norm": f"{kind.default_bn}, unless --bn says otherwise",
            "quantities": ", ".join(kind.quantities),
            "options": ", ".join(f"{k}={v}" for k, v in options.items()),
        }
        lines = [f"{name}: {kind.title}", f"    {kind.reference}"]
        lines += [f"    {head}: {text}" for head, text in facts.items() if text]
        blocks.append("\n".join(_folded(line) for line in lines))
    return "\n\n".join(blocks) + "\n"


def _folded(line: str, indent: int = 8) -> str:
    import textwrap

    return textwrap.fill(line, page_width(), subsequent_indent=" " * indent, break_on_hyphens=False)


def _models() -> str:
    from flatmeter.model.registry import names

    found = [name for known in names().values() for name in known]
    return "\n".join([*found, "hf:FOLDER", "pkg.mod:factory", "file.py:factory"]) + "\n"


def _data() -> str:
    from flatmeter.data.sources import FORMS

    return _columns(FORMS)


def _losses() -> str:
    from flatmeter.risk.custom_loss import LOSSES

    known = {
        name: (kind.__doc__ or "").splitlines()[0].replace("`", "") for name, kind in LOSSES.items()
    }
    own = "a function (outputs, targets) that gives the batch mean"
    return _columns({**known, "pkg.mod:function": own, "file.py:function": own})


def _formats() -> str:
    from flatmeter.checkpoint import READERS, Format
    from flatmeter.checkpoint.formats import CONVERSIONS, WRITERS

    lines = [f"{kind.value}: read; {WRITERS[kind]}" for kind in READERS]
    for kind in Format:
        # A damaged file is told apart for its message; nobody chooses to have one.
        if kind not in READERS and kind is not Format.DAMAGED_ZIP:
            lines.append(f"{kind.value}: refused")
            lines += [_advice(line) for line in CONVERSIONS[kind].splitlines()]
    return "\n".join(lines) + "\n"


def _advice(line: str) -> str:
    """Indented; code, which is so already, is never folded."""
    return f"    {line}" if line.startswith(" ") else _folded(f"    {line}", 4)


def _columns(facts: Mapping[str, str]) -> str:
    width = max(map(len, facts)) + 2
    return "".join(f"{name:{width}}{text}\n" for name, text in facts.items())


_TOPICS: dict[str, Callable[[], str]] = {
    "measures": _measures,
    "models": _models,
    "data": _data,
    "losses": _losses,
    "formats": _formats,
}


@click.command("list")
@click.argument("topic", type=Choice(list(_TOPICS)), default="measures")
def command(topic: str) -> None:
    """Show the measures, models, data, losses or formats that can be named."""
    write_out(_TOPICS[topic]())
