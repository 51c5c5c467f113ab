"""``flatmeter spectrum``: how the eigenvalues of a checkpoint's Hessian are spread."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from flatmeter.cli.measure import given_flags, settings_options, trusting


@click.command("spectrum")
@click.argument("checkpoints", nargs=-1, metavar="CHECKPOINT...")
@settings_options
@trusting
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="draw the density, as png, svg or pdf",
)
@click.pass_context
def command(
    context: click.Context,
    /,
    checkpoints: tuple[str, ...],
    files: tuple[Path, ...],
    trust_pickle: bool,
    plot: Path | None,
    **flags: Any,
) -> int:
    """Show how the eigenvalues of each checkpoint's Hessian are spread.

    Prints how many lie between powers of ten, with half of the 95 % interval. The settings are
    those of measure, and the options those of hessian_density; -f and --export take csv or json,
    which hold the density itself with its band.
    """
    from flatmeter.cli.interrupts import Interrupts
    from flatmeter.config.layers import configure
    from flatmeter.watch import Watch

    given = {**given_flags(context), "measures": ("hessian_density",)}
    configuration = configure(given, files=files, environment=os.environ)
    with Interrupts(Watch(), configuration.settings.max_time) as interrupts:
        with interrupts.held():
            from flatmeter.cli.session import Session

        session = Session(configuration, interrupts, trust_pickle=trust_pickle)
        return session.spectrum(checkpoints, plot)
