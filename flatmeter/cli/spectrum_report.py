"""What ``flatmeter spectrum`` does: measure the density, print it, draw it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flatmeter.cli.each import told
from flatmeter.cli.progress import Progress
from flatmeter.cli.streams import complain, page_width, say, write_out
from flatmeter.config.schema import Settings
from flatmeter.errors import ExitCode, FlatmeterError, Stopped, UsageError
from flatmeter.execution import run
from flatmeter.plan import Plan
from flatmeter.results import spectrum_plot
from flatmeter.results.atomic import write_whole
from flatmeter.results.place import check_file
from flatmeter.results.spectrum_text import State, histogram, to_csv, to_json
from flatmeter.subject import Loader
from flatmeter.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TEXTS: Mapping[str, Callable[[Mapping[str, State]], str]] = {"csv": to_csv, "json": to_json}


def check(settings: Settings, plot: Path | None) -> None:
    """Refuse what could not be shown at the end.

    Raises:
        UsageError: a format that is not one of spectra, or no matplotlib.
    """
    endings: list[tuple[str, str]] = [(settings.format, "--format")]
    endings += [(Path(name).suffix.lstrip("."), "--export") for name in settings.export]
    for ending, where in endings:
        if ending not in TEXTS and (ending, where) != ("table", "--format"):
            raise UsageError(
                f"a spectrum cannot be written as {ending!r}", where=where, hint="use csv or json"
            )
    if plot is not None:
        spectrum_plot.check(plot)
        check_file(plot)


def report(
    plan: Plan,
    paths: Sequence[Path],
    loader: Loader,
    settings: Settings,
    watch: Watch,
    plot: Path | None,
) -> int:
    """Measure one checkpoint after another, and show what was found.

    Returns:
        The exit code: of the first failure.
    """
    progress = Progress(settings.progress, len(paths))
    watch.listener, watch.noted = progress, say
    states: dict[str, State] = {}
    codes: list[ExitCode] = []
    try:
        for done, path in enumerate(paths):
            progress.done = done
            try:
                subject = told(loader, path)
                (finished,) = run(subject, plan, watch)
            except Stopped:
                raise
            except FlatmeterError as error:
                complain(f"{path}: {error}")
                codes.append(error.exit_code)
                continue
            if finished.code:
                complain(f"{path}: {finished.rows[0].message}")
                codes.append(finished.code)
            else:
                states[subject.name] = finished.state
    finally:
        progress.close()
    if states:
        _show(states, settings, plot)
    return int(codes[0]) if codes else int(ExitCode.OK)


def _show(states: Mapping[str, State], settings: Settings, plot: Path | None) -> None:
    text = TEXTS.get(settings.format)
    if text is not None:
        write_out(text(states))
    else:
        width = page_width()
        write_out("\n".join(histogram(name, state, width) for name, state in states.items()))
    for name in settings.export:
        write_whole(Path(name), TEXTS[Path(name).suffix.lstrip(".")](states).encode())
    if plot is not None:
        spectrum_plot.draw(plot, states)
