"""One checkpoint after another, as events: what was read, measured and lost."""

from __future__ import annotations

import traceback
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from flatmeter.errors import ISSUES, ExitCode, FlatmeterError, Stopped
from flatmeter.execution import Finished, Known, Saved, blank_rows, failed_rows, run
from flatmeter.plan import Plan
from flatmeter.ranks.group import current
from flatmeter.results.record import Row
from flatmeter.subject import Loader, Subject
from flatmeter.watch import Watch


@dataclass(frozen=True)
class Read:
    """A checkpoint was read and joined with its network and data.

    Args:
        name: of the checkpoint.
        notes: what reading it had to say.
        data: name of the data that it is measured on.
        data_notes: what was done to them.
        fingerprint: of these data.
        blank: a row for each measure with everything but the numbers.
        ran: classes and functions of the file that were run to read it (``--trust-pickle``).
    """

    name: str
    notes: tuple[str, ...]
    data: str
    data_notes: tuple[str, ...]
    fingerprint: str
    blank: tuple[Row, ...]
    ran: tuple[str, ...]

    @classmethod
    def of(cls, subject: Subject, plan: Plan) -> Read:
        """What there is to say of a subject."""
        data, blank = subject.data, tuple(blank_rows(subject, plan))
        said = subject.notes, data.name, data.notes, data.fingerprint()
        return cls(subject.name, *said, blank, subject.ran)


@dataclass(frozen=True)
class Lost:
    """What is left of a checkpoint cannot be measured.

    Args:
        name: of the checkpoint.
        rows: one for each measure that is missing.
        text: why, as people are told it.
        code: exit code of the failure.
        trace: traceback of an exception that nobody foresaw.
    """

    name: str
    rows: list[Row]
    text: str
    code: ExitCode
    trace: str | None = None

    @property
    def kept(self) -> bool:
        """It is a result to be kept: the checkpoint's own doing, not the command's."""
        return self.code is not ExitCode.USAGE


@dataclass(frozen=True)
class Left:
    """Nothing more comes of a checkpoint."""


Event = Read | Finished | Lost | Left


def sweep(
    paths: Iterable[Path],
    loader: Loader,
    plan: Plan,
    watch: Watch,
    known: Known | None = None,
    saved: Saved | None = None,
) -> Iterator[tuple[Path, Event]]:
    """Measure checkpoints one after another, each taken from ``paths`` when its turn comes.

    Args:
        paths: of the checkpoints.
        loader: reads them.
        plan: of the run.
        watch: told what is being done; raises when the run must stop.
        known: gives the rows of a key and headline that were measured before.
        saved: gives the state of a lineage, to go on from.

    Raises:
        Stopped: by the watch; the measure in flight is abandoned.
    """
    for path in paths:
        for event in measured(path, loader, plan, watch, known, saved):
            yield path, event
        yield path, Left()


def measured(
    path: Path,
    loader: Loader,
    plan: Plan,
    watch: Watch,
    known: Known | None = None,
    saved: Saved | None = None,
) -> Iterator[Event]:
    """What becomes of one checkpoint; arguments and errors are those of :func:`sweep`."""
    read: Read | None = None
    done: set[str] = set()
    try:
        watch(f"{path}: reading")
        with current().together(f"reading {path}"):
            subject = loader.load(path)
        read = Read.of(subject, plan)
        yield read
        for finished in run(subject, plan, watch, known, saved, read.blank):
            done.add(finished.rows[0].measure)
            yield finished
    except Stopped:
        raise
    except FlatmeterError as error:
        watch.check()  # a stop that was caught on its way up is no fault of the checkpoint
        yield lost(path, plan, error, read, done)
    except Exception as error:
        watch.check()
        trace = "".join(traceback.format_exception(error))
        bug = FlatmeterError(
            f"a bug of flatmeter: {type(error).__name__}: {error}",
            hint=f"please report it to {ISSUES}",
        )
        yield replace(lost(path, plan, bug, read, done), code=ExitCode.INTERNAL, trace=trace)


def lost(
    path: Path,
    plan: Plan,
    error: FlatmeterError,
    read: Read | None = None,
    done: Container[str] = (),
) -> Lost:
    """A checkpoint of which nothing more can be measured.

    Args:
        path: of the checkpoint.
        plan: of the run.
        error: why.
        read: what is known of it, where it could be read. It goes by its name where the error is
            the command's.
        done: measures whose rows are there already.
    """
    own = read is not None and error.exit_code is not ExitCode.USAGE
    blank = read.blank if read is not None and own else blank_rows(str(path), plan)
    rows = failed_rows([row for row in blank if row.measure not in done], error)
    name, text = str(path), str(error)
    return Lost(name, rows, text if name in text else f"{name}: {text}", error.exit_code)
