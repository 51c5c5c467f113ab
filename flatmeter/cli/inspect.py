"""``flatmeter inspect``: what a checkpoint is, without data and without running any of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from flatmeter.cli.measure import given_flags, some_settings

_SETTINGS = ("model", "model_args", "key", "ema", "format")


@click.command("inspect")
@click.argument("checkpoints", nargs=-1, metavar="CHECKPOINT...")
@some_settings(*_SETTINGS)
@click.option("--symmetries", is_flag=True, help="count the symmetries of large networks too")
@click.option("-v", "--verbose", is_flag=True, help="list every tensor and every name in pickles")
@click.pass_context
def command(
    context: click.Context,
    /,
    checkpoints: tuple[str, ...],
    files: tuple[Path, ...],
    symmetries: bool,
    verbose: bool,
    **flags: Any,
) -> int:
    """Show what checkpoints are, and the line that measures each.

    Format, weights, metadata, network, inputs and classes, symmetries, tied weights, and what
    pickles name. Nothing that a file holds is run, and no data are needed. A file that is refused
    is shown with the reason, and the command ends with 3. -f json prints the same for programs.
    """
    from flatmeter.cli.inspect_report import report
    from flatmeter.config.layers import configure

    given = given_flags(context)
    configuration = configure(given, files=files, environment=os.environ)
    return int(
        report(
            configuration,
            checkpoints,
            typed=_typed(given, files),
            count=symmetries,
            verbose=verbose,
        )
    )


def _typed(given: dict[str, Any], files: tuple[Path, ...]) -> list[str]:
    """The flags that say which weights are meant, to be repeated in the line to type next."""
    words = [word for file in files for word in ("-c", str(file))]
    if "key" in given:
        words += ["--key", str(given["key"])]
    return [*words, "--ema"] if given.get("ema") else words
