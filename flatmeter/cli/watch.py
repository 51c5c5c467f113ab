"""``flatmeter watch``: its options. What they do stands in ``watching.py``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from flatmeter.cli.measure import given_flags, some_settings, trusting
from flatmeter.config.fields import DESCRIPTIONS

#: What has no meaning where checkpoints are still to come.
_NOT_WATCHED = ("shard", "jobs", "rank_timeout")


@click.command("watch")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--interval", default="5s", show_default=True, metavar="TIME", help="between two looks"
)
@click.option(
    "--count", type=click.IntRange(min=1), metavar="N", help="end after so many checkpoints"
)
@click.option(
    "--stop-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="end when it exists and everything there is measured",
)
@some_settings(*(name for name in DESCRIPTIONS if name not in _NOT_WATCHED))
@trusting
@click.option("-q", "--quiet", is_flag=True, help="say nothing but errors on stderr")
@click.option("-v", "--verbose", is_flag=True, help="say what every measure cost")
@click.pass_context
def command(
    context: click.Context,
    /,
    folder: Path,
    files: tuple[Path, ...],
    interval: str,
    count: int | None,
    stop_file: Path | None,
    trust_pickle: bool,
    quiet: bool,
    verbose: bool,
    **flags: Any,
) -> int:
    """Measure checkpoints as they appear in a folder, each when its file is complete.

    A line for each is printed, or its rows with -f jsonl. With -o DIR the same command goes on
    where it stopped. It ends at --stop-file, --count or --max-time.
    """
    from flatmeter.cli.interrupts import Interrupts
    from flatmeter.config.duration import parse_duration
    from flatmeter.config.layers import configure
    from flatmeter.errors import UsageError
    from flatmeter.watch import Watch

    try:
        seconds = parse_duration(interval)
    except ValueError as error:
        raise UsageError(str(error), where="--interval") from error
    configuration = configure(given_flags(context), files=files, environment=os.environ)
    with Interrupts(Watch(), configuration.settings.max_time) as interrupts:
        with interrupts.held():
            from flatmeter.cli.watching import Watching

        session = Watching(
            configuration, interrupts, quiet=quiet, verbose=verbose, trust_pickle=trust_pickle
        )
        return session.follow(folder, interval=seconds, count=count, stop_file=stop_file)
