"""``flatmeter compare``: checkpoints in the order of each measure, and rank correlations."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from flatmeter.cli.measure import given_flags, some_settings

_SETTINGS = ("columns", "confidence", "seed", "format", "precision")


@click.command("compare")
@click.argument("folders", nargs=-1, metavar="OUT...", type=click.Path(path_type=Path))
@click.option(
    "--with",
    "table",
    type=click.Path(path_type=Path),
    metavar="FILE.csv",
    help="something else about the checkpoints, which its column checkpoint, path, file, name or "
    "sha256 names",
)
@click.option(
    "--column",
    "names",
    multiple=True,
    metavar="NAME",
    help="column to correlate every measure with: of the CSV, or of the rows, such as accuracy",
)
@click.option("--by", metavar="NAME", help="column whose values are groups to correlate in")
@some_settings(*_SETTINGS)
@click.pass_context
def command(
    context: click.Context,
    /,
    folders: tuple[Path, ...],
    table: Path | None,
    names: tuple[str, ...],
    by: str | None,
    files: tuple[Path, ...],
    **flags: Any,
) -> int:
    """Rank the checkpoints of one or several folders of results by each measure.

    Checkpoints whose intervals overlap are told. With --column, Spearman's and Kendall's rank
    correlation of each measure with that column are shown, with intervals by resampling
    checkpoints.
    """
    from flatmeter.cli.compare_report import report
    from flatmeter.config.layers import configure

    settings = configure(given_flags(context), files=files, environment=os.environ).settings
    return int(report(folders, settings, table, names, by))
