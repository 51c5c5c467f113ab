"""What ``flatmeter inspect`` prints, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from flatmeter.cli.inputs import expand
from flatmeter.cli.inspect_text import to_text
from flatmeter.cli.streams import complain, page_width, say, write_out
from flatmeter.config.layers import Configuration
from flatmeter.errors import ExitCode, FlatmeterError, UsageError
from flatmeter.inspection import Inspection, Network, inspect
from flatmeter.model.infer import Architecture, as_architecture
from flatmeter.model.layout import Difference
from flatmeter.results.record import SCHEMA_VERSION


def report(
    configuration: Configuration,
    arguments: Sequence[str],
    *,
    typed: Sequence[str],
    count: bool,
    verbose: bool,
) -> ExitCode:
    """Print what every checkpoint is.

    Args:
        configuration: settings of all layers.
        arguments: files, folders, patterns.
        typed: flags that the line to type next repeats.
        count: count symmetries however long it takes.
        verbose: list every tensor and every name.

    Returns:
        The code of the files that are refused or cannot be looked at, ``FAILED`` where they differ.

    Raises:
        UsageError: another format than ``table`` or ``json``, or nothing to look at.
    """
    form = configuration.settings.format
    if form not in ("table", "json"):
        raise UsageError(f"inspect prints a table or json, not {form}", where="--format")
    codes: set[ExitCode] = set()
    entries: list[Mapping[str, Any]] = []
    for i, path in enumerate(expand(arguments)):
        try:
            found = inspect(
                path,
                configuration.given,
                configuration.project,
                typed=typed,
                count=count,
                tell=lambda text: say(f"note: {text}"),
            )
        except FlatmeterError as error:
            complain(f"{path}: {error}" if str(path) not in str(error) else str(error))
            codes.add(error.exit_code)
            continue
        codes |= _codes(found)
        if form == "json":
            entries.append(to_dict(found))
        else:
            write_out(("\n" if i else "") + to_text(found, page_width(), verbose=verbose))
    if form == "json":
        content = {"schema_version": SCHEMA_VERSION, "checkpoints": entries}
        write_out(json.dumps(_strict(content), indent=2, allow_nan=False) + "\n")
    return codes.pop() if len(codes) == 1 else ExitCode.FAILED if codes else ExitCode.OK


def _codes(found: Inspection) -> set[ExitCode]:
    if found.refused is not None:
        return {found.refused.exit_code}
    difference = found.network.difference
    return {ExitCode.MISMATCH} if difference is not None and difference.share else set()


def to_dict(found: Inspection) -> dict[str, Any]:
    """An inspection as JSON writes it."""
    names, checkpoint = found.pickled, found.checkpoint
    outside = {
        "checkpoint": str(found.path),
        "status": "refused" if found.refused else "ok",
        "message": found.refused.message if found.refused else None,
        "hint": found.refused.hint if found.refused else None,
        "format": found.format or None,
        "bytes": found.size,
        "pickled": None
        if names is None
        else {"names": list(names.every), "not_admitted": list(names.unusual)},
    }
    if checkpoint is None:
        return outside
    return outside | {
        "sha256": checkpoint.sha256,
        "key": checkpoint.key,
        "notes": list(found.notes),
        "tensors": {
            name: {
                "shape": list(tensor.shape),
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "bytes": tensor.numel() * tensor.element_size(),
            }
            for name, tensor in checkpoint.tensors.items()
        },
        "metadata": dict(checkpoint.metadata),
        "network": _network(found.network),
        "tied": [list(group) for group in found.tied],
        "symmetries": found.symmetries,
        "measure": found.command,
    }


def _network(network: Network) -> dict[str, Any]:
    inference = network.inference
    return {
        "model": network.model or None,
        "model_args": dict(network.args or {}),
        "said_by": network.said_by or ("names and shapes" if network.model else None),
        "fits": None if network.code else network.fits,
        "difference": _difference(network.difference) if network.difference else None,
        "candidates": [_architecture(one) for one in inference.exact] if inference else [],
        "nearest": [_difference(one) for one in inference.nearest] if inference else [],
        "input_shape": list(network.input_shape) or None,
        "positions": network.positions,
        "classes": network.classes,
        "architecture": network.architecture or None,
        "unbuilt": network.unbuilt or None,
    }


def _architecture(one: Architecture) -> dict[str, Any]:
    return {"model": one.model, "model_args": dict(one.args)}


def _difference(one: Difference) -> dict[str, Any]:
    return {
        **_architecture(as_architecture(one)),
        "missing": list(one.missing),
        "unexpected": list(one.unexpected),
        "misshaped": [
            {"name": name, "shape": list(found), "expected": list(wanted)}
            for name, found, wanted in one.misshaped
        ],
    }


def _strict(value: Any) -> Any:
    """Without numbers that JSON does not know; they become texts."""
    if isinstance(value, Mapping):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value
