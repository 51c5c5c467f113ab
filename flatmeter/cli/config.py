"""``flatmeter config``: where every setting comes from, its schema, a file to begin with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from flatmeter.cli.measure import given_flags, settings_options
from flatmeter.cli.streams import say, write_out
from flatmeter.errors import UsageError


@click.group("config")
def command() -> None:
    """Show, describe or begin a file of settings."""


@command.command("show")
@settings_options
@click.pass_context
def show(context: click.Context, /, files: tuple[Path, ...], **flags: Any) -> None:
    """Print every setting with where it was set: takes the flags of measure.

    What is printed is itself a file of settings.
    """
    from flatmeter.config.layers import configure

    found = configure(given_flags(context), files=files, environment=os.environ)
    lines = []
    for name, value in found.settings.model_dump(mode="json").items():
        nested = [key for key in found.origins if key.startswith(f"{name}.")]
        origin = found.origins.get(name) or ", ".join(
            f"{key.partition('.')[2]}: {found.origins[key]}" for key in nested
        )
        lines.append((f"{name}: {json.dumps(value)}", origin or "default"))
    # Origins stand in one column, but for those of values that are too long for it.
    width = max(len(text) for text, _ in lines if len(text) <= 50)
    write_out("".join(f"{text:{width}}  # {origin}\n" for text, origin in lines))


@command.command("schema")
def schema() -> None:
    """Print the JSON Schema of a file of settings, with the options of every measure."""
    from flatmeter.config.full_schema import full_schema

    write_out(json.dumps(full_schema(), indent=2) + "\n")


@command.command("init")
@click.argument("path", type=click.Path(path_type=Path), default=Path("flatmeter.yaml"))
def init(path: Path) -> None:
    """Write a commented file of settings (flatmeter.yaml, or PATH); never overwrites one."""
    from flatmeter.config.starter import starter
    from flatmeter.results.atomic import told
    from flatmeter.results.place import beforehand

    if path.exists():
        raise UsageError(
            "it exists already",
            where=str(path),
            hint="remove it, or write another, to be read by -c: flatmeter config init OTHER.yaml",
        )
    with beforehand(), told(path), path.open("x", encoding="utf-8") as file:
        file.write(starter())
    say(f"wrote {path}")
