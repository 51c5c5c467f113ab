"""Flags of the form ``name=value``, their values read as YAML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from flatmeter.errors import UsageError


def parse_arguments(texts: Sequence[str]) -> dict[str, Any]:
    """``--model-arg width=64 --model-arg act=relu``.

    Raises:
        UsageError: not of this form.
    """
    return dict(_pair(text, "--model-arg", "NAME=VALUE") for text in texts)


def parse_options(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``--set measure.option=value``, by measure and option.

    Raises:
        UsageError: not of this form.
    """
    options: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, value = _pair(text, "--set", "MEASURE.OPTION=VALUE")
        measure, dot, option = name.partition(".")
        if not (dot and measure and option):
            raise UsageError(f"{text!r} is not MEASURE.OPTION=VALUE", where="--set")
        options.setdefault(measure, {})[option] = value
    return options


def _pair(text: str, flag: str, form: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{text!r} is not {form}", where=flag)
    try:
        return name, _scalar(yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise UsageError(f"the value of {text!r} cannot be read", where=flag) from error


def _scalar(value: Any) -> Any:
    """YAML 1.1 takes ``1e-3`` for a word; people mean the number."""
    if isinstance(value, str):
        try:
            return float(value) if value[:1] in "+-.0123456789" else value
        except ValueError:
            return value
    return value
