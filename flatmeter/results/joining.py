"""Results of several folders as one, and what contradicts itself between them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flatmeter.errors import UsageError
from flatmeter.natural_order import natural
from flatmeter.results.agreement import agree, differing
from flatmeter.results.atomic import told, write_whole
from flatmeter.results.reading import Stored, identity, read_folder, standing
from flatmeter.results.record import NETWORK, Row
from flatmeter.results.store import Store


@dataclass(frozen=True)
class Conflict:
    """One measurement of which there are different numbers.

    Args:
        found: what was found, each with its file.
    """

    found: tuple[Stored, ...]

    @property
    def message(self) -> str:
        """The first row in which they differ, with every number and its file."""
        first, *rest = self.found
        others = [one for one in rest if not agree(first.rows, one.rows)]
        pair = differing(first.rows, others[0].rows)[0]
        row = pair[0] or pair[1]
        assert row is not None  # they differ in some row
        whose = "" if row.scope == NETWORK else f" of {row.scope}"
        told = ", ".join(f"{_number(one, row)} in {one.file}" for one in (first, *others))
        return f"{row.quantity}{whose} is {told}"

    def row(self) -> Row:
        """What is shown in place of a value."""
        head = self.found[0].head
        return Row(
            **{name: getattr(head, name) for name in ("checkpoint", "sha256", "measure")},
            quantity=head.quantity,
            definition=head.definition,
            key=head.key,
            protocol=head.protocol,
            status="error",
            message=f"different numbers for the same measurement: {self.message}",
        )


@dataclass(frozen=True)
class Joined:
    """What several folders hold together.

    Args:
        groups: rows of each measurement, headline first, by checkpoint in natural order.
        conflicts: measurements of which there are different numbers; not among the groups.
        repeated: how many measurements were found more than once, with equal numbers.
        unfinished: files in which a measurement was cut short.
        folders: that were read, each once.
    """

    groups: list[list[Row]]
    conflicts: list[Conflict]
    repeated: int
    unfinished: list[Path]
    folders: list[Path]

    @property
    def rows(self) -> list[Row]:
        """Of all measurements."""
        return [row for group in self.groups for row in group]

    def run(self) -> dict[str, Any]:
        """What ``run.json`` of a folder that holds all of it says: that of every folder."""
        from flatmeter._version import __version__

        return {"flatmeter": __version__, "merged": {str(f): _runs(f) for f in self.folders}}


def join(folders: Sequence[Path]) -> Joined:
    """Read folders of results, and put together what belongs together.

    Measurements of the same key are one where their numbers agree up to rounding. Within a folder
    a measurement that was made anew (``--force``) replaces the earlier one; between folders nothing
    replaces a different number.

    Raises:
        UsageError: something is no folder of results.
        OutputError: a folder cannot be read.
    """
    own = list({folder.resolve(): folder for folder in folders}.values())
    found: dict[str, list[Stored]] = {}
    names: dict[str, dict[str, None]] = {}
    unfinished: list[Path] = []
    for folder in own:
        _check(folder)
        contents = read_folder(folder)
        unfinished += contents.unfinished
        for one in contents.measurements:
            names.setdefault(identity(one.head), {}).setdefault(one.head.checkpoint)
        for name, group in standing(contents.measurements).items():
            found.setdefault(name, []).extend(group)
    settled = {
        name: [one for one in group if not one.failed] or group[-1:]
        for name, group in _read_later(found).items()
    }
    conflicts = [
        Conflict(tuple(group))
        for group in settled.values()
        if not all(agree(group[0].rows, one.rows) for one in group)
    ]
    contradicted = {identity(conflict.found[0].head) for conflict in conflicts}
    agreed = {name: group for name, group in settled.items() if name not in contradicted}
    return Joined(
        groups=_sorted(
            [replace(row, checkpoint=checkpoint) for row in _newest(group).rows]
            for name, group in agreed.items()
            for checkpoint in names[name]
        ),
        conflicts=conflicts,
        repeated=sum(len({one.file for one in group}) > 1 for group in agreed.values()),
        unfinished=unfinished,
        folders=own,
    )


def write_into(folder: Path, joined: Joined) -> list[Conflict]:
    """Add to a folder of results what it does not hold, and the states that belong to it.

    Of what it holds, only what was measured anew since then is replaced.

    Returns:
        What the folder has other numbers for, which stay.

    Raises:
        OutputError: the folder cannot be written to.
    """
    conflicts: list[Conflict] = []
    new: list[list[Row]] = []
    with Store(folder) as store:
        for group in joined.groups:
            there = store.latest(group[0])
            if there is None or there.failed or group[0].revision > there.head.revision:
                new.append(group)
            elif agree(there.rows, group):
                new += [group] * (not store.named(group[0]))
            else:
                conflicts.append(Conflict((there, Stored(group, joined.folders[0]))))
        store.copy(new)
        store.describe(joined.run())
    left_out = {identity(c.found[0].head) for c in (*joined.conflicts, *conflicts)}
    for source in joined.folders:
        if source.resolve() != folder.resolve():
            _copy_state(source / "state", folder / "state", left_out)
    return conflicts


def _check(folder: Path) -> None:
    if any(folder.glob("results*.jsonl")):
        return
    if folder.is_dir():
        what = "the folder holds no results"
    else:
        what = "a folder of results is needed" if folder.exists() else "no such folder"
    raise UsageError(what, where=str(folder), hint="name what was given to measure by -o")


def _read_later(found: Mapping[str, list[Stored]]) -> dict[str, list[Stored]]:
    """Without the errors of checkpoints that could not be read once, and were measured since."""
    read = {(o.head.checkpoint, o.head.measure) for g in found.values() for o in g if o.head.sha256}
    return {
        name: group
        for name, group in found.items()
        if group[0].head.sha256 or (group[0].head.checkpoint, group[0].head.measure) not in read
    }


def _newest(group: Sequence[Stored]) -> Stored:
    return max(group, key=lambda one: one.head.revision)


def _sorted(groups: Iterable[list[Row]]) -> list[list[Row]]:
    """By checkpoint, then in the order in which measures appear."""
    listed = list(groups)
    measures = list(dict.fromkeys(rows[0].measure for rows in listed))
    return sorted(
        listed,
        key=lambda rows: (natural(Path(rows[0].checkpoint)), measures.index(rows[0].measure)),
    )


def _number(one: Stored, like: Row) -> str:
    """What a measurement has in place of a row of another, with its interval."""
    for row in one.rows:
        if (row.scope, row.quantity) == (like.scope, like.quantity):
            if row.value is None:
                return row.status
            interval = [row.ci_low, row.ci_high]
            ends = ", ".join("?" if end is None else f"{end:.10g}" for end in interval)
            return f"{row.value:.10g}" + (f" [{ends}]" if set(interval) - {row.value, None} else "")
    return "missing"


def _runs(folder: Path) -> list[Any]:
    """What every writer of a folder said of itself."""
    runs = []
    for path in sorted(folder.glob("run*.json")):
        try:
            runs.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue
    return runs


def _copy_state(source: Path, target: Path, left_out: set[str]) -> None:
    """The files of probes and the like that are not there, or are older."""
    for path in sorted([*source.glob("*.npz"), *source.glob("*.key")]):
        copy = target / path.name
        if path.stem in left_out:
            continue
        with told(path):
            if copy.exists() and copy.stat().st_mtime >= path.stat().st_mtime:
                continue
            content = path.read_bytes()
        write_whole(copy, content)
