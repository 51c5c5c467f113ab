"""What a checkpoint is: all that can be said of a file without data and without running it."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from flatmeter.checkpoint import Checkpoint, Format, fit, read, recognise
from flatmeter.checkpoint.pickle_names import PickleNames
from flatmeter.checkpoint.torch_file import pickled_names
from flatmeter.errors import CheckpointRefused, FlatmeterError, UsageError
from flatmeter.missing import outputs, suggested
from flatmeter.model.hugging_face_config import read_config
from flatmeter.model.infer import Architecture, Inference, infer
from flatmeter.model.layout import Difference
from flatmeter.model.registry import build_model, library_of
from flatmeter.recognition import compared_with, settle_model
from flatmeter.words import names_code, settle, sidecar, which_weights

FEW_TENSORS = 16
"""Networks with no more parameter tensors have their symmetries counted in about a second."""

SMALL_SIDE = 64


@dataclass(frozen=True)
class Network:
    """The network that weights belong to, as far as it is known.

    Args:
        model: as for ``--model``, empty where nothing tells it.
        args: of its factory.
        said_by: a flag or a file that names it; empty where names and shapes tell it.
        code: it is code of a person's own, which is not run.
        difference: how the weights differ from a network of a library that somebody names.
        inference: what names and shapes say, where nobody names the network or it does not fit.
        input_shape: of one input, ``None`` for a side that may have any size; empty where it is not
            known.
        classes: number of outputs, ``None`` where no matrix tells it.
        positions: most tokens of one input, where it is a sequence of them.
        architecture: its class in transformers, where a configuration names it.
        unbuilt: why it cannot be built here, though somebody names it.
    """

    model: str = ""
    args: Mapping[str, Any] | None = None
    said_by: str = ""
    code: bool = False
    difference: Difference | None = None
    inference: Inference | None = None
    input_shape: tuple[int | None, ...] = ()
    classes: int | None = None
    positions: int | None = None
    architecture: str = ""
    unbuilt: str = ""

    @property
    def fits(self) -> bool:
        """The network can be built, and every weight has its place in it."""
        known = bool(self.model) and not self.code and not self.unbuilt
        return known and not (self.difference and self.difference.share)


@dataclass(frozen=True)
class Inspection:
    """What is known of a file or folder.

    Args:
        path: as it was named.
        format: its name, empty where none is recognised.
        size: bytes of the file, 0 for a folder.
        pickled: what its pickle names, where it holds one.
        refused: why it is not read; then nothing of what follows is known.
        checkpoint: what was read.
        notes: what was unwrapped, stripped and left out.
        tied: names that share their numbers.
        network: that the weights belong to.
        command: the line to type next.
        symmetries: number of scaling symmetries, found and verified; ``None`` if not counted.
        uncounted: why they were not counted.
    """

    path: Path
    format: str
    size: int
    pickled: PickleNames | None
    refused: FlatmeterError | None = None
    checkpoint: Checkpoint | None = None
    notes: tuple[str, ...] = ()
    tied: tuple[tuple[str, ...], ...] = ()
    network: Network = Network()
    command: str = ""
    symmetries: int | None = None
    uncounted: str = ""


def inspect(
    path: Path,
    given: Mapping[str, Any],
    project: Mapping[str, Any],
    *,
    typed: Sequence[str] = (),
    count: bool = False,
    tell: Callable[[str], None] = warnings.warn,
) -> Inspection:
    """What is known of one file or folder; one that is refused has its reason.

    Args:
        path: of it.
        given: flags by field.
        project: what the project file says.
        typed: flags besides those of the network that the line to type next repeats.
        count: count the symmetries, however long it takes.
        tell: given a sentence before minutes are spent.

    Raises:
        FlatmeterError: there is no such file, or a flag or a file beside it is wrong.
    """
    beside = sidecar(path)
    key, ema = which_weights([given, beside, project], str(path))
    found = _outside(path)
    try:
        checkpoint = read(path, key=key, ema=ema)
        sources = {"a flag": given, "the file": None, f"{path.name}.yaml": beside}
        sources["flatmeter.yaml"] = project
        network, notes, words = _network(checkpoint, sources, tell)
    except CheckpointRefused as error:
        return replace(found, refused=error)
    lacking = [name for name in ("model", "data") if words[name] is None]
    flags, _ = suggested(checkpoint, lacking, network.inference)
    found = replace(
        found,
        checkpoint=checkpoint,
        notes=(*checkpoint.notes, *notes),
        tied=tied(checkpoint.tensors),
        network=network,
        command=shlex.join(
            ["flatmeter", "measure", str(path), *_model_flags(network, given), *typed, *flags]
        ),
    )
    return _counted(found, count)


def tied(tensors: Mapping[str, Tensor]) -> tuple[tuple[str, ...], ...]:
    """Groups of names of which each is the same stored tensor."""
    groups: dict[Any, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.numel():
            place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
            groups.setdefault(place, []).append(name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _outside(path: Path) -> Inspection:
    """What can be said before anything is read."""
    try:
        found = recognise(path)
        size = 0 if path.is_dir() else path.stat().st_size
        names = None if found is None or path.is_dir() else pickled_names(path, found)
    except OSError:
        # Reading says what is wrong.
        return Inspection(path, "", 0, None)
    return Inspection(path, found.value if isinstance(found, Format) else "", size, names)


def _network(
    checkpoint: Checkpoint,
    sources: Mapping[str, Mapping[str, Any] | None],
    tell: Callable[[str], None],
) -> tuple[Network, tuple[str, ...], Mapping[str, Any]]:
    """The network, what was stripped from the names of its weights, and all that is said."""
    own = checkpoint.metadata
    said = [own if source is None else source for source in sources.values()]
    words = settle(said, own=1)
    inference = settle_model(words, checkpoint, tell)
    notes = inference.notes if inference else ()
    spec, args = words["model"], words["model_args"]
    network = Network(inference=inference, classes=outputs(checkpoint.tensors) or None)
    if spec is None and own.get("model"):
        # Code, which the file alone is not obeyed in.
        named = {"model": own["model"], "args": own.get("model_args"), "said_by": "the file"}
        return replace(network, code=True, **named), notes, words
    if spec is None:
        return network, notes, words
    by = next((n for n, s in zip(sources, said, strict=True) if s.get("model") == spec), "")
    network = replace(network, model=spec, args=args, said_by=by)
    if library_of(spec) == "hf":
        return _of_folder(network, checkpoint, words)
    if names_code("model", spec):
        return replace(network, code=True), notes, words
    side = args.get("image_size")
    if inference is None:
        difference, notes = compared_with(spec, args, checkpoint)
        network = replace(network, difference=difference)
        if difference.share:
            other = infer(checkpoint.tensors, where=str(checkpoint.path), tell=tell)
            return replace(network, inference=other), other.notes, words
    elif inference.chosen is not None:
        side = side or inference.chosen.side
    return replace(network, input_shape=_input_shape(checkpoint.tensors, side)), notes, words


def _of_folder(
    network: Network, checkpoint: Checkpoint, words: dict[str, Any]
) -> tuple[Network, tuple[str, ...], Mapping[str, Any]]:
    """The network of a Hugging Face folder; its configuration is read, and compared if it can be.

    Raises:
        UsageError: there is no such folder.
    """
    spec, args = words["model"], words["model_args"]
    try:
        config = read_config(spec.partition(":")[2], args)
    except CheckpointRefused as error:
        words["model"] = None
        return replace(network, model="", unbuilt=_in_full(error)), (), words
    network = replace(
        network,
        said_by=network.said_by or "its config.json",
        architecture=config.architecture,
        classes=config.classes,
        positions=config.positions if config.head.reads_text else None,
        input_shape=config.image_shape or (),
    )
    try:
        difference, notes = compared_with(spec, args, checkpoint)
    except (CheckpointRefused, UsageError) as error:
        return replace(network, unbuilt=_in_full(error)), (), words
    return replace(network, difference=difference), notes, words


def _in_full(error: FlatmeterError) -> str:
    return f"{error.message}\n{error.hint}" if error.hint else error.message


def _model_flags(network: Network, given: Mapping[str, Any]) -> list[str]:
    """The network by flags: as they were given, or another one where that does not fit."""
    if not network.fits and network.inference is not None and network.inference.chosen is not None:
        return network.inference.chosen.flags
    spec, args = given.get("model"), given.get("model_args") or {}
    flags = Architecture(str(spec), args).flags
    return flags if spec else flags[2:]


def _input_shape(tensors: Mapping[str, Tensor], side: int | None) -> tuple[int | None, ...]:
    """Of one input, by the first layer: numbers of a matrix, or channels and sides."""
    first = next((t for t in tensors.values() if t.dim() >= 2), None)
    return () if first is None else (first.shape[1], *[side] * (first.dim() - 2))


def _counted(found: Inspection, count: bool) -> Inspection:
    """With the number of symmetries, or why it is not counted."""
    network, checkpoint = found.network, found.checkpoint
    if checkpoint is None or not network.fits:
        code = "code of a person's own is not run here"
        unknown = "the network is not built" if network.unbuilt else "the network is not known"
        return replace(found, uncounted=code if network.code else unknown)
    if not count and len(checkpoint.tensors) > FEW_TENSORS:
        return replace(found, uncounted="--symmetries counts them, which takes some seconds")
    from flatmeter.scalings import examine

    try:
        model = build_model(network.model, network.args, initialised=False)
        fit(model, checkpoint)
        small = all(side is not None and side <= SMALL_SIDE for side in network.input_shape[1:])
        known = small and bool(network.input_shape)
        shape = [n for n in network.input_shape if n is not None] if known else None
        group = examine(model, name=str(found.path), input_shape=shape)
    except FlatmeterError as error:
        return replace(found, uncounted=error.message)
    return replace(found, symmetries=group.dim)
