"""The command ``flatmeter``: its subcommands, and how every failure is told."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from flatmeter._version import __version__
from flatmeter.cli.streams import ClosedPipe, complain, drop_output, mute
from flatmeter.config.wording import nearest
from flatmeter.errors import ISSUES, ExitCode, FlatmeterError, UsageError

#: Subcommand: module, and its line in ``flatmeter --help``. A module is imported when it is used.
COMMANDS = {
    "measure": ("flatmeter.cli.measure", "Measure one or many checkpoints."),
    "inspect": ("flatmeter.cli.inspect", "Show what checkpoints are; runs nothing of them."),
    "bench": ("flatmeter.cli.bench", "Time products and measures of checkpoints here."),
    "spectrum": ("flatmeter.cli.spectrum", "Show how the Hessian's eigenvalues are spread."),
    "symmetries": ("flatmeter.cli.symmetries", "Find rescalings that change no output."),
    "watch": ("flatmeter.cli.watch", "Measure checkpoints as they appear in a folder."),
    "submit": ("flatmeter.cli.submit", "Measure in a job of Slurm, or in the background."),
    "compare": ("flatmeter.cli.compare", "Rank checkpoints; correlate measures with a column."),
    "merge": ("flatmeter.cli.merge", "Join the results of several folders."),
    "list": ("flatmeter.cli.listing", "Show the measures, models, data, losses and formats."),
    "config": ("flatmeter.cli.config", "Show, describe or begin a file of settings."),
    "demo": ("flatmeter.cli.demo", "Train six small networks and measure them."),
    "completion": ("flatmeter.cli.completion", "Print the completion script of a shell."),
}


#: What a group without its subcommand raises, for click to show help; older versions do it at once.
_HELP: tuple[type[Exception], ...] = (
    (click.exceptions.NoArgsIsHelpError,) if hasattr(click.exceptions, "NoArgsIsHelpError") else ()
)


class Commands(click.Group):
    """Subcommands that are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The subcommand, imported now."""
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in ``--help``, which imports none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click does, with the nearest name where there is none."""
        name = args[0] if args else ""
        if name and name not in COMMANDS and not name.startswith("-"):
            hint = nearest(name, COMMANDS) or "see: flatmeter --help"
            raise UsageError(f"no such command {name!r}", hint=hint)
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with: flatmeter demo",
)
@click.version_option(__version__, prog_name="flatmeter")
def flatmeter() -> None:
    """Measure how sharp a trained network's minimum is."""


def run(arguments: Sequence[str]) -> int:
    """Run the command line.

    Args:
        arguments: after the program's name.

    Returns:
        The exit code; every failure was told on stderr.
    """
    try:
        if _is_further():
            mute()
            if list(arguments[:1]) != ["measure"]:
                return int(ExitCode.OK)
        code = _invoke(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except FlatmeterError as error:
        complain(str(error))
        return int(error.exit_code)
    except KeyboardInterrupt:
        complain("stopped by Ctrl-C")
        return int(ExitCode.CTRL_C)
    except ClosedPipe:
        return int(ExitCode.OK)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO):
            return _bug(error)
        drop_output()
        complain(f"cannot write to stdout: {error.strerror}")
        return int(ExitCode.FAILED)
    except Exception as error:
        return _bug(error)


def _is_further() -> bool:
    """A first process stands beside this one: it speaks, and does what is not to be done twice."""
    from flatmeter.ranks.launch import launched

    place = launched(os.environ)
    return place is not None and place.rank > 0


def _invoke(arguments: Sequence[str]) -> int:
    try:
        result = flatmeter.main(list(arguments), prog_name="flatmeter", standalone_mode=False)
        return int(result) if isinstance(result, int) else int(ExitCode.OK)
    except click.exceptions.Exit as end:
        return int(end.exit_code)
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        if isinstance(error, _HELP):
            error.show()
        else:
            complain(_told(error))
        return int(error.exit_code)
    except SystemExit:
        # click's own answer to a closed pipe while it prints help.
        return int(ExitCode.OK)


def _told(error: click.ClickException) -> str:
    """A mistake that click found, as others are told."""
    close = getattr(error, "possibilities", None)
    text = " ".join((error.message if close else error.format_message()).split())
    context = getattr(error, "ctx", None)
    hint = f"see: {context.command_path if context else 'flatmeter'} --help"
    return str(
        UsageError(
            text[:1].lower() + text[1:].rstrip("."),
            hint=f"did you mean {close[0]}?" if close else hint,
        )
    )


def _bug(error: Exception) -> int:
    import traceback

    complain(
        "".join(traceback.format_exception(error))
        + f"this is a bug of flatmeter {__version__}; please report the lines above to {ISSUES}"
    )
    return int(ExitCode.INTERNAL)
