"""``flatmeter merge``: the results of several folders as one table, or as one folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from flatmeter.cli.measure import given_flags, some_settings

_SETTINGS = ("format", "export", "sort", "columns", "precision", "per_layer")


@click.command("merge")
@click.argument("folders", nargs=-1, metavar="OUT...", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    "target",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="folder to write the results into, as measure does; what it holds stays",
)
@some_settings(*_SETTINGS)
@click.pass_context
def command(
    context: click.Context,
    /,
    folders: tuple[Path, ...],
    target: Path | None,
    files: tuple[Path, ...],
    **flags: Any,
) -> int:
    """Join the folders of results of a job array: what measure wrote by -o.

    A measurement that several folders hold is taken once where its numbers agree up to rounding.
    Where they do not, none is taken, all are told, and the command ends with 1. Without -o the
    results are printed.
    """
    from flatmeter.cli.merge_report import report
    from flatmeter.config.layers import configure

    given = given_flags(context)
    configuration = configure(given, files=files, environment=os.environ)
    # An export that a file of settings names is that of measure.
    settings = configuration.settings.model_copy(update={"export": given.get("export", ())})
    return int(report(folders, target, settings, shown=target is None or "format" in given))
