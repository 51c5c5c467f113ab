"""What ``flatmeter measure`` does: plan, measure one checkpoint after another, show, end."""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path

from flatmeter.cli.inputs import expand, part_of
from flatmeter.cli.interrupts import Interrupts, ending
from flatmeter.cli.outcome import Outcome
from flatmeter.cli.output import Output
from flatmeter.cli.plan_of import plan_of
from flatmeter.cli.progress import Progress, spent
from flatmeter.cli.streams import ClosedPipe, say
from flatmeter.config.fields import SUBJECT_FIELDS
from flatmeter.config.layers import Configuration
from flatmeter.errors import ExitCode, FlatmeterError, Stopped
from flatmeter.execution import Finished, failed_rows, run
from flatmeter.plan import Plan
from flatmeter.provenance import describe_run
from flatmeter.ranks.group import current
from flatmeter.results.atomic import OutputError
from flatmeter.results.number import counted
from flatmeter.results.place import beforehand, check_file, check_folder
from flatmeter.results.record import NETWORK
from flatmeter.results.store import Store
from flatmeter.subject import Loader, Subject


class Session:
    """One call of ``flatmeter measure``.

    Args:
        configuration: settings of all layers.
        interrupts: entered by the caller.
        force: measure anew what the folder of results holds.
        quiet: say nothing but errors on stderr.
        verbose: say what every measure had to say and cost.
    """

    def __init__(
        self,
        configuration: Configuration,
        interrupts: Interrupts,
        *,
        force: bool = False,
        quiet: bool = False,
        verbose: bool = False,
    ) -> None:
        self.configuration, self.settings = configuration, configuration.settings
        self.interrupts, self.watch = interrupts, interrupts.watch
        self.force, self.quiet, self.verbose = force, quiet, verbose
        self.ranks = current()
        self.outcome = Outcome()
        self.store: Store | None = None
        self.reused = self.measured = 0
        self.output = Output(self.settings, notes=verbose)

    def plan(self, arguments: Sequence[str]) -> int:
        """Print what would be done."""
        from flatmeter.cli.dry_run import describe

        plan, paths = self._prepare(arguments)
        with self._store() as store:
            known = None if store is None or self.force else store.finished
            failed = describe(plan, paths, self._loader(), known)
        return int(failed)

    def bench(self, arguments: Sequence[str]) -> int:
        """Print what products and measures cost here."""
        from flatmeter.cli.bench_report import report

        plan, paths = self._prepare(arguments)
        return int(report(plan, paths, self._loader(), self.settings.format))

    def spectrum(self, arguments: Sequence[str], plot: Path | None) -> int:
        """Show the density of eigenvalues."""
        from flatmeter.cli.spectrum_report import check, report

        check(self.settings, plot)
        plan, paths = self._prepare(arguments)
        return report(plan, paths, self._loader(), self.settings, self.watch, plot)

    def run(self, arguments: Sequence[str]) -> int:
        """Measure, and return the exit code; failures of single checkpoints are told on stderr."""
        plan, paths = self._prepare(arguments)
        mode = "none" if self.quiet or self.ranks.rank else self.settings.progress
        self.progress = Progress(mode, len(paths) * len(plan.measures))
        self.watch.listener, self.watch.noted = self.progress, self._note
        end: FlatmeterError | None = None
        with ExitStack() as stack:
            with beforehand():
                self.store = stack.enter_context(self._store())
                self.output.run = describe_run(plan)
                self.output.run["checkpoints"] = self.settings.model_dump(
                    mode="json", include={*SUBJECT_FIELDS, "samples"}
                )
                if self.part:
                    self.output.run["part"] = self.part
                self._describe()
            self._found()
            try:
                with self.ranks.together("checkpoints"):
                    self._all(plan, paths)
            except (Stopped, KeyboardInterrupt) as cause:
                end = ending(cause, self.settings.out, shown=not self.ranks.rank, anew=self.force)
            except OutputError as error:
                end = error
            except ClosedPipe:
                return self._code()
            finally:
                self.progress.close()
            self._finish()
        if end is not None:
            raise end
        return self._code()

    def _found(self) -> None:
        """How much of earlier runs is there."""
        if self.store is not None and self.store.found:
            then = "all is measured anew" if self.force else "what is finished is not repeated"
            self._note(
                f"{self.settings.out} holds {counted(self.store.found_rows, 'row')} of "
                f"{counted(self.store.found, 'measurement')}; {then}"
            )

    def _finish(self) -> None:
        """Show what was measured; an export that is lost is a failure like those of measures."""
        if self.ranks.rank:
            return
        if self.reused:
            total = counted(self.reused + self.measured, "measurement")
            self._note(f"measured already: {self.reused:,} of {total}")
        self.output.finish()
        for name in self.output.lost:
            self.outcome.add(name, ExitCode.FAILED)

    def _prepare(self, arguments: Sequence[str]) -> tuple[Plan, list[Path]]:
        """Everything that can be refused before time is spent."""
        paths, self.part = self.ranks.from_first(lambda: self._paths(arguments))
        origins = self.configuration.origins
        plan = plan_of(self.settings, origins, self._warn)
        self.output.check([(m.name, q) for m in plan.measures for q in m.quantities])
        if not self.ranks.rank:
            self._check_places()
        return plan, paths

    def _paths(self, arguments: Sequence[str]) -> tuple[list[Path], str]:
        """What is to be measured, and which part of the list it is, if not all."""
        paths = expand(arguments)
        if self.settings.shard is None:
            return paths, ""
        paths, part = part_of(paths, self.settings.shard, os.environ)
        self._warn(part)
        return paths, part

    def _check_places(self) -> None:
        if self.settings.out:
            check_folder(Path(self.settings.out))
        for name in self.settings.export:
            check_file(Path(name))

    def _warn(self, text: str) -> None:
        if not self.quiet:
            say(f"note: {text}")

    def _loader(self) -> Loader:
        s = self.settings
        return Loader(
            self.configuration.given,
            samples=None if s.samples == "all" else s.samples,
            seed=s.seed,
            project=self.configuration.project,
            tell=self._warn,
        )

    def _store(self) -> Store | nullcontext[None]:
        first = not self.ranks.rank
        return Store(Path(self.settings.out)) if self.settings.out and first else nullcontext()

    def _all(self, plan: Plan, paths: Sequence[Path]) -> None:
        loader = self._loader()
        for position, path in enumerate(paths):
            self.progress.done = position * len(plan.measures)
            subject: Subject | None = None
            try:
                self.watch(f"{path}: reading")
                with self.ranks.together(f"reading {path}"):
                    subject = loader.load(path)
                self._subject(subject)
                earlier = self.store if not self.force else None
                known, saved = (earlier.finished, earlier.state) if earlier else (None, None)
                for finished in run(subject, plan, self.watch, known, saved):
                    with self.interrupts.held():
                        self._keep(finished)
                    if finished.code and not self.settings.keep_going:
                        return
            except (Stopped, OutputError):
                raise
            except FlatmeterError as error:
                self._lost(path, plan, error, subject)
            except Exception as error:
                self._crashed(path, plan, error)
            if self.outcome.failed(str(path)) and not self.settings.keep_going:
                return

    def _subject(self, subject: Subject) -> None:
        """What reading a checkpoint had to say, and the data it is measured on."""
        for note in subject.notes:
            self._note(f"{subject.name}: {note}")
        data = self.output.run["data"]
        if subject.data.name not in data:
            for note in subject.data.notes:
                self._note(f"{subject.data.name}: {note}")
            data[subject.data.name] = subject.data.fingerprint()
            self._describe()

    def _keep(self, finished: Finished) -> None:
        """One measure has ended: on the disk first, then on the screen."""
        rows = finished.rows
        self.reused += finished.reused
        self.measured += not finished.reused
        if self.store is not None and finished.reused:
            self.store.keep(rows)
        elif self.store is not None:
            self.store.append(rows, finished.state, finished.lineage)
        self.progress.done += 1
        self.outcome.add(rows[0].checkpoint, finished.code)
        self.outcome.unconverged |= any(
            row.status == "unconverged" for row in rows if row.scope == NETWORK
        )
        if finished.code:
            self._error(f"{rows[0].checkpoint}: {rows[0].measure}: {rows[0].message}")
        elif self.verbose:
            self.progress.say(spent(rows[0], finished.reused))
        if finished.trace:
            self._trace(finished.trace)
        self.output.add(rows)

    def _lost(
        self, path: Path, plan: Plan, error: FlatmeterError, subject: Subject | None = None
    ) -> None:
        """A checkpoint of which nothing can be measured.

        Where that is its own doing, not the command's, it is a result to be kept and shown.
        """
        text = str(error)
        self._error(text if str(path) in text else f"{path}: {text}")
        self.outcome.add(str(path), error.exit_code)
        own = error.exit_code is not ExitCode.USAGE
        shown = {row.measure for row in self.output.rows if row.checkpoint == str(path)}
        rows = failed_rows(subject if subject and own else str(path), plan, error)
        rows = [row for row in rows if row.measure not in shown]
        if self.store is not None and own:
            for row in rows:
                self.store.append([row])
        self.output.add(rows)

    def _crashed(self, path: Path, plan: Plan, error: Exception) -> None:
        from flatmeter.cli.main import ISSUES

        trace = "".join(traceback.format_exception(error))
        bug = FlatmeterError(
            f"a bug of flatmeter: {type(error).__name__}: {error}",
            hint=f"please report it to {ISSUES}",
        )
        self._lost(path, plan, bug)
        self.outcome.codes[str(path)][-1] = ExitCode.INTERNAL
        self._trace(trace)

    def _error(self, text: str) -> None:
        self.progress.say(f"flatmeter: error: {text}")
        if self.store is not None:
            self.store.log(f"error: {text}")

    def _trace(self, trace: str) -> None:
        """To the log where there is one, else to the screen."""
        if self.store is not None:
            self.store.log(trace)
        else:
            self.progress.say(trace)

    def _note(self, text: str) -> None:
        if not self.quiet:
            self.progress.say(f"note: {text}")
        if self.store is not None:
            self.store.log(text)

    def _describe(self) -> None:
        if self.store is not None:
            self.store.describe(self.output.run)

    def _code(self) -> int:
        return int(self.outcome.exit_code(allow_unconverged=self.settings.allow_unconverged))
