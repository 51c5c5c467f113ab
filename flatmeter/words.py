"""What is said of a checkpoint, by whom, and whose word counts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flatmeter.config.anchor import anchored
from flatmeter.config.fields import SUBJECT_FIELDS
from flatmeter.config.layers import nearest_file
from flatmeter.config.yaml_file import read_yaml
from flatmeter.data.tensor_file import ENDINGS
from flatmeter.errors import UsageError
from flatmeter.model.registry import library_of

_SOURCES = ("digits", "torchvision", "imagefolder", "text")


def settle(sources: Sequence[Mapping[str, Any]], *, own: int) -> dict[str, Any]:
    """The first source that has a field decides it.

    Arguments belong to their model: they come from the sources that name the same one, the
    earlier the stronger. Arguments that the first source gives without a model join them.

    Args:
        sources: what each says, the strongest first.
        own: which of them is the checkpoint itself. Where it names code to run, its word counts
            only if another source names the same.
    """
    others = [source for i, source in enumerate(sources) if i != own]
    heard = list(sources)
    heard[own] = {
        name: value
        for name, value in sources[own].items()
        if not names_code(name, value) or any(o.get(name) == value for o in others)
    }
    words: dict[str, Any] = {}
    for name in ("model", "data", "loss"):
        words[name] = next((s[name] for s in heard if s.get(name) is not None), None)
    words["model_args"] = {}
    for source in reversed(sources):
        if source is sources[0] or _same_model(source.get("model"), words["model"]):
            words["model_args"].update(source.get("model_args") or {})
    return words


def which_weights(sources: Sequence[Mapping[str, Any]], where: str) -> tuple[str | None, bool]:
    """The entry of a checkpoint that holds the weights, or that averaged ones are to be taken.

    Args:
        sources: what each says, the strongest first; the first that says either decides.
        where: the checkpoint, for messages.

    Raises:
        UsageError: one says both.
    """
    for source in sources:
        key, ema = source.get("key"), source.get("ema")
        if key and ema:
            raise UsageError(
                f"key ({key}) and ema both say which weights are meant",
                where=where,
                hint="leave out --key or --ema",
            )
        if key or ema is not None:
            return key, bool(ema)
    return None, False


def _same_model(first: Any, second: Any) -> bool:
    """The same network, also where one names its file from another folder."""
    if first is None or second is None:
        return False
    if not isinstance(first, str) or not isinstance(second, str):
        return first is second
    return first == second or (
        ".py:" in first and Path(first).name == Path(second).name  # file.py:factory
    )


def names_code(name: str, value: Any) -> bool:
    """Whether using a field's value means to import and run code that the value names."""
    if isinstance(value, Mapping):
        value = value.get("name")
    if not isinstance(value, str):
        return False
    if name == "model":
        return ":" in value and not library_of(value)
    if name == "data":
        kind = value.partition("@")[0].partition(":")[0]
        return kind not in _SOURCES and not value.lower().endswith(ENDINGS)
    return name == "loss" and ":" in value


def sidecar(path: Path) -> dict[str, Any]:
    """What the file ``CHECKPOINT.yaml`` beside a checkpoint says of it.

    Raises:
        UsageError: the file says something else.
    """
    beside = path.with_name(path.name + ".yaml")
    if not beside.is_file():
        return {}
    file = read_yaml(beside)
    for name in file.values:
        if name not in SUBJECT_FIELDS:
            close = difflib.get_close_matches(name, SUBJECT_FIELDS, n=1)
            nearest = f"did you mean {close[0]!r}? " if close else ""
            raise UsageError(
                f"unknown setting {name!r}",
                where=file.where(name),
                hint=f"{nearest}a file beside a checkpoint says: {', '.join(SUBJECT_FIELDS)}",
            )
    return {k: anchored(k, v, beside.parent) for k, v in file.values.items()}


def project_words() -> dict[str, Any]:
    """What the nearest project file says of checkpoints."""
    path = nearest_file(Path.cwd())
    if path is None:
        return {}
    values = read_yaml(path).values
    return {k: anchored(k, v, path.parent) for k, v in values.items() if k in SUBJECT_FIELDS}
