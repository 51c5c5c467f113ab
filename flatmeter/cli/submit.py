"""``flatmeter submit``: a job of Slurm, or processes of this machine, that measure checkpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from flatmeter.cli.choice import Choice
from flatmeter.cli.measure import given_flags, some_settings, trusting
from flatmeter.config.fields import DESCRIPTIONS

#: Parameters that a task is given as they are.
_PASSED = (*DESCRIPTIONS, "files", "trust_pickle")

#: What tasks are told by the command itself, or would overwrite each other.
_NOT_SUBMITTED = ("shard", "export")


def as_typed(context: click.Context) -> list[str]:
    """The flags of measure that were given, as words of a command line."""
    words = []
    for option in context.command.params:
        name = option.name or ""
        source = context.get_parameter_source(name)
        if name not in _PASSED or source is not ParameterSource.COMMANDLINE:
            continue
        assert isinstance(option, click.Option)  # no argument is called like these
        value = context.params[name]
        if option.is_flag:
            words.append((option.opts if value else option.secondary_opts)[-1])
        else:
            each = value if option.multiple else [value]
            words += [f"{option.opts[-1]}={one}" for one in each]
    return words


@click.command("submit")
@click.argument("checkpoints", nargs=-1, metavar="CHECKPOINT...")
@click.option("--cluster", type=Choice(("slurm", "local")), default="slurm", show_default=True)
@click.option(
    "--tasks",
    type=click.IntRange(min=1),
    metavar="N",
    help="parts of the list, each a task of its own; by default one for each checkpoint, "
    "at most 16; local: one for each GPU",
)
@click.option("--time", metavar="TIME", help="of each task (90m, 4h); slurm: 4h; local: no limit")
@click.option(
    "--gpus",
    type=click.IntRange(min=0),
    metavar="N",
    help="of each task; 1, or 0 with --device cpu",
)
@click.option("--cpus", type=click.IntRange(min=1), metavar="N", help="of each task")
@click.option("--mem", metavar="SIZE", help="of each task, such as 16G")
@click.option("--partition", metavar="NAME", help="of Slurm")
@click.option("--sbatch", multiple=True, metavar="NAME[=VALUE]", help="any other option of sbatch")
@click.option(
    "--logs",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="folder of the job's files; by default jobs in that of -o",
)
@click.option("--dry-run", is_flag=True, help="show the job and submit nothing")
@some_settings(*(name for name in DESCRIPTIONS if name not in _NOT_SUBMITTED))
@trusting
@click.pass_context
def command(
    context: click.Context,
    /,
    checkpoints: tuple[str, ...],
    files: tuple[Path, ...],
    cluster: str,
    tasks: int | None,
    time: str | None,
    gpus: int | None,
    cpus: int | None,
    mem: str | None,
    partition: str | None,
    sbatch: tuple[str, ...],
    logs: Path | None,
    dry_run: bool,
    **flags: Any,
) -> None:
    """Submit a job that measures checkpoints, and print its number and where its files are.

    Each task runs flatmeter measure on its part of the list, which is written down now. A task
    that is preempted or comes near its time limit requeues itself and goes on where it stopped.
    """
    from flatmeter.cli.resources import Resources, seconds_of
    from flatmeter.cli.submitting import submit
    from flatmeter.config.layers import configure

    configuration = configure(given_flags(context), files=files, environment=os.environ)
    resources = Resources(
        cluster=cluster,
        tasks=tasks,
        seconds=seconds_of(time, cluster),
        gpus=gpus,
        cpus=cpus,
        mem=mem,
        partition=partition,
        sbatch=sbatch,
    )
    submit(configuration, checkpoints, as_typed(context), resources, logs, dry_run=dry_run)
