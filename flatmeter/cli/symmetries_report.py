"""What ``flatmeter symmetries`` does: find, show, and write an equivalent checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flatmeter.cli.each import with_each
from flatmeter.cli.inputs import expand
from flatmeter.cli.streams import page_width, say, write_out
from flatmeter.config.layers import Configuration
from flatmeter.equivalent import Move, Moved, write_equivalent
from flatmeter.errors import ExitCode, FlatmeterError, UsageError
from flatmeter.model.registry import build_model
from flatmeter.results.atomic import write_whole
from flatmeter.results.place import check_file
from flatmeter.results.record import SCHEMA_VERSION
from flatmeter.results.symmetries_text import moved_dict, moved_text, to_csv, to_dict, to_text
from flatmeter.runner import settle_device
from flatmeter.scalings import EXAMPLES, Symmetries, examine
from flatmeter.subject import Loader, Network

Entries = Sequence[Mapping[str, Any]]
#: What is printed and exported besides the table.
TEXTS: Mapping[str, Callable[[Entries], str]] = {
    "json": lambda entries: _document(entries),
    "jsonl": lambda entries: "".join(json.dumps(entry) + "\n" for entry in entries),
    "csv": to_csv,
}


@dataclass(frozen=True)
class Request:
    """What is asked for besides the settings.

    Args:
        input_shape: of one input.
        transform: file to write an equivalent checkpoint to.
        move: where to.
        force: write over a file.
    """

    input_shape: tuple[int, ...] | None
    transform: Path | None
    move: Move
    force: bool

    @classmethod
    def of(
        cls,
        seed: int,
        *,
        input_shape: str | None,
        transform: Path | None,
        scale: str | None,
        granularity: str | None,
        size: int | None,
        tolerance: float | None,
        force: bool,
    ) -> Request:
        """From the flags.

        Raises:
            UsageError: a value that cannot be, or a flag that only belongs to another.
        """
        given: dict[str, Any] = {"--scale": scale, "--granularity": granularity, "--size": size}
        given |= {"--tolerance": tolerance, "--force": force or None}
        idle = [flag for flag, value in given.items() if value is not None]
        if transform is None and idle:
            raise UsageError(
                "it says how an equivalent checkpoint is written",
                where=idle[0],
                hint="add --transform FILE, or leave it out",
            )
        if scale == "balanced" and size is not None:
            raise UsageError("it belongs to a random element", where="--size")
        move = Move(
            seed=_seed(scale, seed),
            size=size or 1,
            channels=granularity == "channel",
            tolerance=tolerance,
        )
        return cls(_shape(input_shape), transform, move, force)


def _seed(scale: str | None, seed: int) -> int | None:
    if scale in (None, "seed"):
        return seed
    if scale == "balanced":
        return None
    if scale is not None and scale.isdecimal():
        return int(scale)
    raise UsageError(
        f"it cannot be {scale!r}",
        where="--scale",
        hint="write seed, the number of a seed, or balanced",
    )


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.replace("x", ",").split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(
            f"{text!r} is no shape", where="--input-shape", hint="write it as in 3,224,224"
        )
    return tuple(map(int, parts))


def report(
    configuration: Configuration,
    arguments: Sequence[str],
    request: Request,
    *,
    trust_pickle: bool = False,
) -> ExitCode:
    """Show the symmetries of every checkpoint, or of a network alone.

    Returns:
        Of a single checkpoint its own code, else ``FAILED`` where any failed.

    Raises:
        UsageError: nothing is named, or what is asked for cannot be shown or written.
    """
    return _Report(configuration, request, trust_pickle).run(arguments)


class _Report:
    def __init__(self, configuration: Configuration, request: Request, trust_pickle: bool) -> None:
        self.settings, self.request = configuration.settings, request
        self.device = settle_device(self.settings.device)
        self.given = configuration.given
        self.loader = Loader(
            configuration.given,
            samples=EXAMPLES,
            seed=self.settings.seed,
            project=configuration.project,
            tell=lambda text: say(f"note: {text}"),
            trust_pickle=trust_pickle,
        )
        self.entries: list[dict[str, Any]] = []

    def run(self, arguments: Sequence[str]) -> ExitCode:
        alone = not arguments and self.given.get("model")
        paths = [] if alone else expand(arguments)
        self._check(paths)
        code = ExitCode.OK
        if alone:
            self._network(str(self.given["model"]))
        else:
            code = with_each(paths, self._checkpoint)
        if self.entries:
            self._show()
        return code

    def _check(self, paths: Sequence[Path]) -> None:
        """Refuse what could not be shown or written at the end."""
        endings: list[tuple[str, str]] = [(self.settings.format, "--format")]
        endings += [(Path(name).suffix.lstrip("."), "--export") for name in self.settings.export]
        for ending, where in endings:
            if ending not in TEXTS and (ending, where) != ("table", "--format"):
                raise UsageError(
                    f"symmetries cannot be written as {ending!r}",
                    where=where,
                    hint=f"use {', '.join(TEXTS)}",
                )
        for name in self.settings.export:
            check_file(Path(name))
        if self.request.transform is not None:
            _check_target(self.request.transform, paths, force=self.request.force)

    def _checkpoint(self, path: Path) -> None:
        network = self.loader.network(path)
        for note in network.notes:
            say(f"note: {path}: {note}")
        found = self._found(str(path), network.model, self._data(network))
        moved = None
        if self.request.transform is not None:
            moved = write_equivalent(
                self.request.transform,
                network,
                found,
                self.request.move,
                params=self.settings.params,
            )
        self._keep(found, moved)

    def _network(self, spec: str) -> None:
        """A network without a checkpoint: weights as it is built with, by the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            model = build_model(spec, self.settings.model_args)
        self._keep(self._found(spec, model, None, fresh=True), None)

    def _data(self, network: Network) -> tuple[torch.Tensor, str] | None:
        """A few inputs from the data, where somebody names some and no shape was asked for."""
        if self.request.input_shape is not None or network.words["data"] is None:
            return None
        try:
            data = self.loader.dataset(network)
        except FlatmeterError as error:
            if self.given.get("data"):
                raise
            say(f"note: {network.checkpoint.path}: random inputs are used, since its data cannot "
                f"be had: {error.message}")  # fmt: skip
            return None
        return data.inputs[:EXAMPLES], data.name

    def _found(
        self, name: str, model: torch.nn.Module, data: tuple[torch.Tensor, str] | None, **more: bool
    ) -> Symmetries:
        inputs, source = data or (None, "random")
        return examine(
            model,
            name=name,
            inputs=inputs,
            source=source,
            input_shape=self.request.input_shape,
            bn=self.settings.bn or "eval",
            params=self.settings.params,
            device=self.device,
            seed=self.settings.seed,
            **more,
        )

    def _keep(self, found: Symmetries, moved: Moved | None) -> None:
        """A table is printed at once; all else at the end."""
        own = {"transform": moved_dict(moved)} if moved is not None else {}
        self.entries.append(to_dict(found) | own)
        if self.settings.format == "table":
            between = "\n" if len(self.entries) > 1 else ""
            text = to_text(found, page_width())
            if moved is not None:
                text += moved_text(moved, page_width())
            write_out(between + text)

    def _show(self) -> None:
        text = TEXTS.get(self.settings.format)
        if text is not None:
            write_out(text(self.entries))
        for name in self.settings.export:
            write_whole(Path(name), TEXTS[Path(name).suffix.lstrip(".")](self.entries).encode())


def _document(entries: Entries) -> str:
    content = {"schema_version": SCHEMA_VERSION, "checkpoints": entries}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _check_target(path: Path, paths: Sequence[Path], *, force: bool) -> None:
    """Refuse a file that must not be written.

    Raises:
        UsageError: there is not one checkpoint, or the file exists.
    """
    if len(paths) != 1:
        raise UsageError(
            f"one checkpoint is moved at a time, not {len(paths) or 'a network without one'}",
            where="--transform",
            hint="name a single checkpoint",
        )
    if path.exists() and paths[0].exists() and path.samefile(paths[0]):
        raise UsageError("it is the checkpoint itself", where=str(path), hint="name another file")
    for file in (path, path.with_name(path.name + ".yaml")):
        if file.exists() and not force:
            raise UsageError("it exists already", where=str(file), hint="write over it: --force")
    check_file(path)
