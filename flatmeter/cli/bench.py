"""``flatmeter bench``: what products and measures of a checkpoint cost on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from flatmeter.cli.measure import given_flags, settings_options, trusting


@click.command("bench")
@click.argument("checkpoints", nargs=-1, metavar="CHECKPOINT...")
@settings_options
@trusting
@click.pass_context
def command(
    context: click.Context,
    /,
    checkpoints: tuple[str, ...],
    files: tuple[Path, ...],
    trust_pickle: bool,
    **flags: Any,
) -> int:
    """Time gradients and curvature products of checkpoints, and plan their memory.

    For blocks of 1, 4, 16 and 64 vectors it prints the way of computing them that is chosen here
    and the time for each vector, in gradients over all the data; then what each measure usually
    costs at the settings given, as measure --dry-run does. The settings are those of measure;
    -f json prints the same for programs.
    """
    from flatmeter.cli.interrupts import Interrupts
    from flatmeter.config.layers import configure
    from flatmeter.watch import Watch

    configuration = configure(given_flags(context), files=files, environment=os.environ)
    with Interrupts(Watch(), configuration.settings.max_time) as interrupts:
        with interrupts.held():
            from flatmeter.cli.session import Session

        return Session(configuration, interrupts, trust_pickle=trust_pickle).bench(checkpoints)
