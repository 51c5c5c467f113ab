"""What ``flatmeter merge`` does: join, tell what does not fit, print or write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flatmeter.cli.output import Output
from flatmeter.cli.streams import complain, say
from flatmeter.config.schema import Settings
from flatmeter.errors import ExitCode, UsageError
from flatmeter.results.joining import Conflict, Joined, join, write_into
from flatmeter.results.number import counted
from flatmeter.results.place import beforehand, check_file, check_folder
from flatmeter.results.record import NETWORK


def report(
    folders: Sequence[Path], target: Path | None, settings: Settings, *, shown: bool
) -> ExitCode:
    """Join the folders.

    Args:
        folders: of results.
        target: to write into, ``None`` for none.
        settings: of the output.
        shown: print the results.

    Returns:
        ``FAILED`` where there are different numbers for one measurement.
    """
    joined = read(folders)
    output = Output(settings, notes=False)
    output.run = joined.run()
    output.check([(row.measure, row.quantity) for row in joined.rows if row.scope == NETWORK])
    for name in settings.export:
        check_file(Path(name))
    conflicts = joined.conflicts
    if target is not None:
        with beforehand():
            check_folder(target)
        in_target = write_into(target, joined)
        tell_conflicts(in_target)
        conflicts = [*conflicts, *in_target]
        say(f"note: {target} holds {_content(joined)}")
    rows = joined.rows + [conflict.row() for conflict in joined.conflicts]
    if shown:
        output.add(rows)
        output.finish()
    else:
        output.rows = rows
        output.write_exports()
    return ExitCode.FAILED if conflicts or output.lost else ExitCode.OK


def read(folders: Sequence[Path]) -> Joined:
    """The folders joined; what does not fit is told on stderr.

    Raises:
        UsageError: nothing is named, or something that is no folder of results.
    """
    if not folders:
        hint = "name what was given to measure by -o"
        raise UsageError("no folder of results is named", hint=hint)
    joined = join(folders)
    for path in joined.unfinished:
        say(f"note: {path}: a measurement was cut short; the rest of it is left out")
    if joined.repeated:
        say(
            f"note: {counted(joined.repeated, 'measurement')} found more than once, with equal "
            "numbers: each is taken once"
        )
    tell_conflicts(joined.conflicts)
    if not joined.groups and not joined.conflicts:
        say("note: nothing is finished there")
    return joined


def tell_conflicts(conflicts: Sequence[Conflict]) -> None:
    """Every measurement of which there are different numbers."""
    for conflict in conflicts:
        head = conflict.found[0].head
        complain(f"{head.checkpoint}: {head.measure}: different numbers: {conflict.message}")
    if conflicts:
        say(
            f"{counted(len(conflicts), 'measurement')} left out: leave out the wrong folder, or "
            "measure anew by --force in all of them"
        )


def _content(joined: Joined) -> str:
    checkpoints = len({group[0].checkpoint for group in joined.groups})
    return (
        f"{counted(len(joined.rows), 'row')} of {counted(len(joined.groups), 'measurement')} of "
        f"{counted(checkpoints, 'checkpoint')} from {counted(len(joined.folders), 'folder')}"
    )
