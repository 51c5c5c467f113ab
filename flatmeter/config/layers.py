"""Settings in layers: defaults, project file, files, environment, flags; the last word counts."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from flatmeter.config.anchor import anchored
from flatmeter.config.fields import SUBJECT_FIELDS
from flatmeter.config.schema import Settings
from flatmeter.config.wording import mistake
from flatmeter.config.yaml_file import YamlFile, read_yaml
from flatmeter.errors import UsageError

PROJECT_FILE = "flatmeter.yaml"
PREFIX = "FLATMETER_"

Kind = Literal["project", "file", "environment", "flag"]


@dataclass(frozen=True)
class Layer:
    """Values from one place.

    Args:
        kind: of the place.
        values: by field.
        where: tells people where a (dotted) field was set.
    """

    kind: Kind
    values: Mapping[str, Any]
    where: Callable[[str], str]


@dataclass(frozen=True)
class Configuration:
    """Validated settings, and where each came from.

    Args:
        settings: the result of all layers.
        origins: where each (dotted) field was set; defaults are absent.
        given: what files of ``-c``, environment and flags say of checkpoints; it overrides what
            they say themselves.
        project: what the project file says of checkpoints, for where they do not say it themselves.
    """

    settings: Settings
    origins: Mapping[str, str]
    given: Mapping[str, Any] = field(default_factory=dict)
    project: Mapping[str, Any] = field(default_factory=dict)


def configure(
    flags: Mapping[str, Any] | None = None,
    *,
    files: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
    start: Path | None = None,
) -> Configuration:
    """Settings of a run from all layers.

    Args:
        flags: values of the flags that were given, by field.
        files: of ``-c``, the later the stronger.
        environment: variables; those that begin with ``FLATMETER_`` count.
        start: folder from which the project file is looked for, upwards; the current one if
            left out.

    Raises:
        UsageError: an unknown field or a value that cannot be; says where it was set.
    """
    project = nearest_file(start or Path.cwd())
    layers = [file_layer(read_yaml(project), "project")] if project else []
    layers += [file_layer(read_yaml(path), "file") for path in files]
    layers += [_environment_layer(environment or {})]
    layers += [Layer("flag", dict(flags or {}), lambda name: _flag(name))]
    for layer in layers:
        _check_names(layer)
    merged, origins = _merge(layers)
    return Configuration(
        _validated(merged, origins),
        origins,
        given=_of_subjects([layer for layer in layers if layer.kind != "project"]),
        project=_of_subjects([layer for layer in layers if layer.kind == "project"]),
    )


def _of_subjects(layers: Sequence[Layer]) -> dict[str, Any]:
    """What some layers together say of checkpoints."""
    return {k: v for k, v in _merge(layers)[0].items() if k in SUBJECT_FIELDS}


def nearest_file(start: Path) -> Path | None:
    """The project file in a folder or in the nearest one above it."""
    for folder in [start, *start.parents]:
        if (folder / PROJECT_FILE).is_file():
            return folder / PROJECT_FILE
    return None


def file_layer(file: YamlFile, kind: Kind) -> Layer:
    """The layer of a YAML file; relative paths in it start at its folder."""
    values = {k: anchored(k, v, file.path.parent) for k, v in file.values.items()}
    return Layer(kind, values, file.where)


def _environment_layer(environment: Mapping[str, str]) -> Layer:
    values = {}
    for name, text in environment.items():
        if name.startswith(PREFIX):
            try:
                value = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise UsageError(f"{text!r} cannot be read", where=name) from error
            values[name.removeprefix(PREFIX).lower()] = value
    return Layer("environment", values, lambda name: PREFIX + name.partition(".")[0].upper())


def _flag(name: str) -> str:
    head, _, rest = name.partition(".")
    special = {"options": "--set", "model_args": "--model-arg", "measures": "--measure"}
    flag = special.get(head, "--" + head.replace("_", "-"))
    return f"{flag} {rest}" if rest else flag


def _check_names(layer: Layer) -> None:
    for name in layer.values:
        if name not in Settings.model_fields:
            close = difflib.get_close_matches(name, Settings.model_fields, n=1)
            raise UsageError(
                f"unknown setting {name!r}",
                where=layer.where(name),
                hint=f"did you mean {close[0]!r}?" if close else "see: flatmeter config schema",
            )


def _merge(layers: Sequence[Layer]) -> tuple[dict[str, Any], dict[str, str]]:
    """All layers in one; options of measures are joined one by one, the rest replaced."""
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        if "model" in layer.values:
            # Arguments belong to the network that they were given with.
            merged.pop("model_args", None)
            origins.pop("model_args", None)
        for name, value in layer.values.items():
            if value is None:
                continue
            if name == "options" and isinstance(value, Mapping):
                _join_options(merged, origins, value, layer)
            else:
                merged[name], origins[name] = value, layer.where(name)
    return merged, origins


def _join_options(
    merged: dict[str, Any], origins: dict[str, str], value: Mapping[str, Any], layer: Layer
) -> None:
    joined = merged.setdefault("options", {})
    for measure, options in value.items():
        if not isinstance(options, Mapping):
            raise UsageError(
                f"options of {measure} must be `option: value` pairs",
                where=layer.where(f"options.{measure}"),
            )
        joined[measure] = {**joined.get(measure, {}), **options}
        for option in options:
            name = f"options.{measure}.{option}"
            origins[name] = layer.where(name)


def _validated(merged: Mapping[str, Any], origins: Mapping[str, str]) -> Settings:
    try:
        return Settings(**merged)
    except ValidationError as error:
        found = mistake(error, merged)
        raise UsageError(found.text, where=origins.get(found.field), hint=found.hint) from error
