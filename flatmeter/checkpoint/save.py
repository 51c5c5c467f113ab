"""Writing a checkpoint that says which network, data and loss it belongs to."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flatmeter.checkpoint.prefixes import strip_wrappers
from flatmeter.errors import FlatmeterError, UsageError

#: Version of the entry ``flatmeter`` in a checkpoint.
FORMAT = 1


def save(
    path: str | Path,
    model: nn.Module,
    *,
    name: str,
    args: Mapping[str, Any] | None = None,
    data: str | None = None,
    loss: str | Mapping[str, Any] | None = None,
    **extra: Any,
) -> Path:
    """Store a network's weights together with what is needed to measure them.

    The file is an ordinary one of PyTorch, ``torch.load(path, weights_only=True)`` reads it:
    ``{"flatmeter": {…}, "state_dict": {…}}``. It appears whole or not at all.

    Args:
        path: of the file; its folder is made where it is missing.
        model: the trained network; wrappers (DataParallel, torch.compile) leave no trace.
        name: which network it is: ``zoo:NAME``, ``torchvision:NAME``, ``pkg.mod:factory`` or
            ``file.py:factory``.
        args: arguments of the factory.
        data: source of the training data, as ``--data`` takes it.
        loss: as ``--loss`` takes it.
        extra: anything else worth keeping, such as ``epoch=90``; plain values only.

    Returns:
        The path.

    Raises:
        UsageError: an argument that a file cannot say in plain values.
        FlatmeterError: the file cannot be written.
    """
    path = Path(path)
    words = {
        "format": FORMAT,
        "model": name,
        "model_args": dict(args or {}),
        "data": data,
        "loss": dict(loss) if isinstance(loss, Mapping) else loss,
        **extra,
    }
    for key, value in words.items():
        words[key] = _plain(value, key)
    _write({"flatmeter": words, "state_dict": _weights(model)}, path)
    return path


def _plain(value: Any, name: str) -> Any:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"a checkpoint cannot hold this {name}: {error}",
            where="save",
            hint="numbers, texts, lists and dictionaries of them can be stored",
        ) from error


def _weights(model: nn.Module) -> dict[str, Tensor]:
    found = model.state_dict()
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise UsageError(
                f"the network's entry {name!r} is {type(value).__name__}, not a tensor",
                where="save",
            )
    names = strip_wrappers(found)
    return {names[name]: tensor.detach().cpu() for name, tensor in found.items()}


def _write(content: Mapping[str, Any], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError about the position in the file.
        why = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise FlatmeterError(
            f"cannot write the checkpoint: {why}",
            where=str(path),
            hint="choose a folder that you may write to and that has room",
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
