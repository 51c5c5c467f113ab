"""``flatmeter measure``: its options. What they do stands in ``session.py``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from flatmeter.cli.choice import Choice
from flatmeter.config.fields import BN_MODES, DESCRIPTIONS, DTYPES, FORMATS, PROGRESS
from flatmeter.strategy import STRATEGIES

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _complete_measures(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from flatmeter.measures.registry import available

    return [CompletionItem(n) for n in ["all", *available()] if n.startswith(incomplete)]


def _option(*names: str, field: str | None = None, **more: Any) -> tuple[str, Decorator]:
    """A flag that sets the field of its name, and that field; unset, it overrides nothing."""
    field = field or names[-1].lstrip("-").replace("-", "_")
    return field, click.option(*names, field, default=None, help=DESCRIPTIONS[field], **more)


_SECTIONS = [
    _option("-m", "--model"),
    _option("--model-arg", field="model_args", multiple=True, metavar="NAME=VALUE"),
    _option("--key"),
    _option("--ema", is_flag=True),
    _option("-d", "--data"),
    _option("-n", "--samples"),
    _option("-b", "--batch-size"),
    _option("--loss"),
    _option("--weight-decay"),
    _option("--lr"),
    _option("--bn", type=Choice(BN_MODES)),
    _option("--bn-batch"),
    _option("-M", "--measure", field="measures", multiple=True, shell_complete=_complete_measures),
    _option("--set", field="options", multiple=True, metavar="MEASURE.OPTION=VALUE"),
    _option("--params", metavar="GLOB"),
    _option("--rtol"),
    _option("--confidence"),
    _option("--max-products"),
    _option("--max-time"),
    _option("--shard", metavar="K/N"),
    _option("--jobs"),
    _option("--rank-timeout"),
    _option("--device"),
    _option("--dtype", type=Choice(DTYPES)),
    _option("--strategy", type=Choice(("auto", *STRATEGIES))),
    _option("--seed"),
    _option("--deterministic", is_flag=True),
    _option("--keep-going/--fail-fast", field="keep_going", is_flag=True),
    _option("--allow-unconverged", is_flag=True),
    _option("-f", "--format", type=Choice(FORMATS)),
    _option("-o", "--out", metavar="DIR"),
    _option("--export", multiple=True, metavar="FILE"),
    _option("--sort", metavar="COLUMN"),
    _option("--columns"),
    _option("--precision"),
    _option("--per-layer", is_flag=True),
    _option("--progress", type=Choice(PROGRESS)),
]


def settings_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds every flag that sets a setting, and ``-c``."""
    return some_settings(*(field for field, _ in _SECTIONS))(function)


def some_settings(*fields: str) -> Decorator:
    """Adds the flags that set some of the settings, and ``-c``."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for field, option in reversed(_SECTIONS):
            function = option(function) if field in fields else function
        return click.option(
            "-c",
            "--config",
            "files",
            multiple=True,
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="file of settings; the later, the stronger",
        )(function)

    return add


def trusting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--trust-pickle``, which no file and no variable can set."""
    return click.option(
        "--trust-pickle",
        is_flag=True,
        help="run the code in checkpoints that cannot be read otherwise, with all your rights",
    )(function)


def given_flags(context: click.Context) -> dict[str, Any]:
    """Values of the flags that were given on the command line, by field."""
    from flatmeter.cli.flags import parse_arguments, parse_options

    given = {
        name: value
        for name, value in context.params.items()
        if name in DESCRIPTIONS
        and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    if "model_args" in given:
        given["model_args"] = parse_arguments(given["model_args"])
    if "options" in given:
        given["options"] = parse_options(given["options"])
    return given


@click.command("measure")
@click.argument("checkpoints", nargs=-1, metavar="CHECKPOINT...")
@settings_options
@trusting
@click.option("--dry-run", is_flag=True, help="print the plan and measure nothing")
@click.option("--force", is_flag=True, help="measure anew what the folder of -o holds")
@click.option("-q", "--quiet", is_flag=True, help="say nothing but errors on stderr")
@click.option("-v", "--verbose", is_flag=True, help="say what every measure had to say and cost")
@click.pass_context
def command(
    context: click.Context,
    /,
    checkpoints: tuple[str, ...],
    files: tuple[Path, ...],
    trust_pickle: bool,
    dry_run: bool,
    force: bool,
    quiet: bool,
    verbose: bool,
    **flags: Any,
) -> int:
    """Measure one or many checkpoints: files, folders, patterns, or - for a list on stdin.

    A checkpoint that says what it is needs nothing else; where something is missing, the error
    says which flag to add. Settings may stand in flatmeter.yaml too (see: flatmeter config).
    """
    from flatmeter.cli.interrupts import Interrupts
    from flatmeter.config.layers import configure
    from flatmeter.ranks.launch import launched
    from flatmeter.watch import Watch

    place = launched(os.environ)
    configuration = configure(given_flags(context), files=files, environment=os.environ)
    with Interrupts(Watch(), configuration.settings.max_time) as interrupts:
        # Entered first: this import takes seconds, in which a job may be stopped. Held, because a
        # library whose import is broken off may swallow the signal and fail on what is half there.
        with interrupts.held():
            from flatmeter.cli.processes import sharing
            from flatmeter.cli.session import Session

        with sharing(place, configuration.settings, interrupts) as ranks:
            session = Session(
                configuration,
                interrupts,
                force=force,
                quiet=quiet,
                verbose=verbose,
                trust_pickle=trust_pickle,
            )
            code = session.plan(checkpoints) if dry_run else session.run(checkpoints)
            return ranks.from_first(lambda: code)
