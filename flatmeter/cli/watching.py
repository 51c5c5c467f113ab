"""What ``flatmeter watch`` does: measure checkpoints as they appear, a line for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flatmeter.cli.arrivals import Arrivals
from flatmeter.cli.jobs import Crew
from flatmeter.cli.output import Output
from flatmeter.cli.session import Session
from flatmeter.cli.streams import write_out
from flatmeter.errors import UsageError
from flatmeter.results.pivot import pivot
from flatmeter.results.record import Row
from flatmeter.sweep import Event, Left, Lost


class Lines(Output):
    """A line for each checkpoint instead of a table at the end."""

    shown = 0

    def left(self) -> None:
        """Nothing more comes of a checkpoint."""
        rows, self.shown = self.rows[self.shown :], len(self.rows)
        if rows and self.settings.format == "table":
            write_out(line(rows, self.settings.precision, self.settings.columns) + "\n")

    def _table(self, rows: Sequence[Row]) -> None:
        """All of it was shown."""


class Watching(Session):
    """One call of ``flatmeter watch``; its arguments are those of a session."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.output: Lines = Lines(self.settings, notes=self.verbose)

    def follow(
        self, folder: Path, *, interval: float, count: int | None, stop_file: Path | None
    ) -> int:
        """Measure until a stop file, a number of checkpoints or a time, and return the exit code.

        Args:
            folder: in which checkpoints appear.
            interval: seconds between two looks.
            count: of checkpoints, after which it ends.
            stop_file: what is there when it appears is still measured.

        Raises:
            UsageError: a file instead of a folder, or settings that do not fit.
        """
        if folder.exists() and not folder.is_dir():
            raise UsageError(
                "this is a file, and a folder is watched",
                where=str(folder),
                hint=f"{folder.parent}",
            )
        if self.settings.shard is not None:
            raise UsageError("what is still to come has no parts", where="--shard")
        plan, _ = self._prepare(())
        self.arrivals = Arrivals(
            folder,
            interval,
            over=lambda: stop_file is not None and stop_file.exists(),
            most=count,
            tell=self._note,
            waiting=lambda: self.watch(f"waiting for checkpoints in {folder}"),
        )
        return self.measure(plan, self.arrivals, count or 0)

    def _crew(self, checkpoints: int) -> Crew:
        """One process: several would wait for each other's checkpoints."""
        return super()._crew(1)

    def _paths(self, arguments: Sequence[str]) -> tuple[list[Path], str]:
        return [], ""

    def _take(self, event: Event) -> None:
        if isinstance(event, Lost) and self.arrivals.changed(Path(event.name)):
            # Of what it was when it was given out nothing is left to be said.
            self.arrivals.take_back()
            self._note(f"{event.name} has changed, and is looked at again")
            return
        super()._take(event)
        if isinstance(event, Left):
            self.output.left()


def line(rows: Sequence[Row], digits: int, columns: Sequence[str]) -> str:
    """The headline numbers of one checkpoint."""
    grid = pivot(rows, digits=digits, columns=columns)
    name, cells = grid.lines[-1]
    # Marks of footnotes, which a line has none of.
    shown = (cell.partition(" [")[0] for cell in cells)
    named = zip((column.name for column in grid.columns), shown, strict=True)
    return "  ".join([f"{grid.folder}{name}", *(f"{own} {cell or '-'}" for own, cell in named)])
