"""What ``flatmeter measure`` does: plan, measure one checkpoint after another, show, end."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

from flatmeter.cli.inputs import expand, part_of
from flatmeter.cli.interrupts import Interrupts, ending
from flatmeter.cli.jobs import Crew
from flatmeter.cli.outcome import Outcome
from flatmeter.cli.output import Output
from flatmeter.cli.plan_of import loader_of, plan_of
from flatmeter.cli.pool import Pool
from flatmeter.cli.progress import Progress, spent
from flatmeter.cli.streams import ClosedPipe, say
from flatmeter.config.fields import SUBJECT_FIELDS
from flatmeter.config.layers import Configuration
from flatmeter.errors import ExitCode, FlatmeterError, Stopped
from flatmeter.execution import Finished
from flatmeter.plan import Plan
from flatmeter.provenance import describe_run
from flatmeter.ranks.group import current
from flatmeter.results.atomic import OutputError
from flatmeter.results.number import counted
from flatmeter.results.place import beforehand, check_file, check_folder
from flatmeter.results.record import NETWORK
from flatmeter.results.store import Store
from flatmeter.subject import Loader
from flatmeter.sweep import Event, Left, Lost, Read, sweep


class Session:
    """One call of ``flatmeter measure``.

    Args:
        configuration: settings of all layers.
        interrupts: entered by the caller.
        force: measure anew what the folder of results holds.
        quiet: say nothing but errors on stderr.
        verbose: say what every measure had to say and cost.
        trust_pickle: run the code of files that cannot be read otherwise.
    """

    def __init__(
        self,
        configuration: Configuration,
        interrupts: Interrupts,
        *,
        force: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        trust_pickle: bool = False,
    ) -> None:
        self.trust_pickle = trust_pickle
        self.configuration, self.settings = configuration, configuration.settings
        self.interrupts, self.watch = interrupts, interrupts.watch
        self.force, self.quiet, self.verbose = force, quiet, verbose
        self.ranks = current()
        self.outcome = Outcome()
        self.store: Store | None = None
        self.reused = self.measured = 0
        #: More than one checkpoint is to be read.
        self.many = False
        self.output = Output(self.settings, notes=verbose)

    def plan(self, arguments: Sequence[str]) -> int:
        """Print what would be done."""
        from flatmeter.cli.dry_run import describe

        plan, paths = self._prepare(arguments)
        with self._store() as store:
            known = None if store is None or self.force else store.finished
            jobs = self._crew(len(paths)).count
            failed = describe(plan, paths, self._loader(), known, jobs)
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
        return self.measure(plan, paths, len(paths))

    def measure(self, plan: Plan, paths: Iterable[Path], count: int) -> int:
        """Measure checkpoints by a plan, and return the exit code.

        Args:
            plan: of the run.
            paths: of the checkpoints, each taken when its turn comes.
            count: how many they are, for the progress line.
        """
        self.crew, self.many = self._crew(count), count != 1
        mode = "none" if self.quiet or self.ranks.rank else self.settings.progress
        self.progress = Progress(mode, count * len(plan.measures))
        self.watch.listener, self.watch.noted = self.progress, self._note
        end: FlatmeterError | None = None
        with ExitStack() as stack:
            with beforehand():
                self.store = stack.enter_context(self._store())
                self.output.run = describe_run(plan)
                self.output.run["checkpoints"] = self.settings.model_dump(
                    mode="json", include={*SUBJECT_FIELDS, "samples"}
                )
                self.output.run["trust_pickle"] = self.trust_pickle
                if self.part:
                    self.output.run["part"] = self.part
                self.output.run["jobs"] = self.crew.count
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
        if "unpickled" in self.output.run:
            self._describe()

    def _prepare(self, arguments: Sequence[str]) -> tuple[Plan, list[Path]]:
        """Everything that can be refused before time is spent."""
        paths, self.part = self.ranks.from_first(lambda: self._paths(arguments))
        self.many = len(paths) > 1
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
        return loader_of(
            self.configuration, self._warn, trust_pickle=self.trust_pickle, many=self.many
        )

    def _crew(self, checkpoints: int) -> Crew:
        return Crew.of(
            self.configuration,
            checkpoints,
            self.ranks.size,
            trust_pickle=self.trust_pickle,
            resumes=self.settings.out is not None and not self.force,
        )

    def _store(self) -> Store | nullcontext[None]:
        first = not self.ranks.rank
        return Store(Path(self.settings.out)) if self.settings.out and first else nullcontext()

    def _events(self, plan: Plan, paths: Iterable[Path]) -> Iterator[tuple[Path, Event]]:
        """What becomes of the checkpoints, measured here or by several processes."""
        earlier = self.store if not self.force else None
        known, saved = (earlier.finished, earlier.state) if earlier else (None, None)
        if self.crew.count == 1:
            return sweep(paths, self._loader(), plan, self.watch, known, saved)
        return Pool(self.crew, plan, self.watch).sweep(paths, known, saved)

    def _all(self, plan: Plan, paths: Iterable[Path]) -> None:
        done: Counter[Path] = Counter()
        for path, event in self._events(plan, self.output.in_order(paths)):
            if isinstance(event, Finished):
                done[path] += 1
            self._take(event)
            if self.outcome.failed(str(path)) and not self.settings.keep_going:
                return
            if isinstance(event, Left):
                self.progress.done += len(plan.measures) - done.pop(path, 0)

    def _take(self, event: Event) -> None:
        """Keep and show what has happened to a checkpoint."""
        if isinstance(event, Read):
            self._read(event)
        elif isinstance(event, Finished):
            with self.interrupts.held():
                self._keep(event)
        elif isinstance(event, Lost):
            self._lost(event)

    def _read(self, event: Read) -> None:
        """What reading a checkpoint had to say, and the data it is measured on."""
        for note in event.notes:
            self._note(f"{event.name}: {note}")
        if event.ran:
            unpickled = self.output.run.setdefault("unpickled", {})
            unpickled[event.name] = list(event.ran)
            # At 1, 2, 4, …, and at the end: the whole file is written each time.
            if len(unpickled).bit_count() == 1:
                self._describe()
        data = self.output.run["data"]
        if event.data not in data:
            for note in event.data_notes:
                self._note(f"{event.data}: {note}")
            data[event.data] = event.fingerprint
            self._describe()

    def _keep(self, finished: Finished) -> None:
        """One measure has ended: on the disk first, then on the screen."""
        finished = self._settled(finished)
        rows = finished.rows
        self.reused += finished.reused
        self.measured += not finished.reused
        if self.store is not None and finished.reused:
            self.store.keep(rows)
        elif self.store is not None:
            self.store.append(rows, finished.state, finished.lineage)
        self.progress.finished(reused=finished.reused)
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

    def _settled(self, finished: Finished) -> Finished:
        """With several processes two may measure equal weights at the same time: one counts."""
        head = finished.rows[0]
        certain = self.crew.count == 1 or finished.reused or finished.code
        if certain or self.store is None or self.force:
            return finished
        known = self.store.finished(head.key, head.quantity)
        if known is None:
            return finished
        return Finished([replace(row, checkpoint=head.checkpoint) for row in known], reused=True)

    def _lost(self, event: Lost) -> None:
        """A checkpoint of which nothing more can be measured."""
        self._error(event.text)
        self.outcome.add(event.name, event.code)
        if self.store is not None and event.kept:
            for row in event.rows:
                self.store.append([row])
        self.output.add(event.rows)
        if event.trace:
            self._trace(event.trace)

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
