"""``flatmeter.save``: a checkpoint that says what it is, and the word of its owner beside it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from flatmeter import checkpoint
from flatmeter.errors import UsageError
from flatmeter.results.atomic import write_whole
from flatmeter.words import names_code

_HEADER = "# Written by flatmeter.save: this code may be run to measure the checkpoint beside it.\n"


def save(
    path: str | Path,
    model: nn.Module,
    *,
    name: str | None = None,
    args: Mapping[str, Any] | None = None,
    data: str | None = None,
    loss: str | Mapping[str, Any] | None = None,
    **extra: Any,
) -> Path:
    """Save a network so that ``flatmeter measure PATH`` needs nothing else.

    The file is an ordinary checkpoint: ``torch.load(path)["state_dict"]`` are the weights, without
    the prefixes of DDP and ``torch.compile``. It is written whole or not at all. A checkpoint alone
    never makes flatmeter run code; where the network, the data or the loss is code of your own, a
    file ``PATH.yaml`` beside it says so in your name. Keep the two together.

    Args:
        path: of the file; its folder is made where it is missing.
        model: the network, possibly wrapped.
        name: how to build it, never left out: ``zoo:NAME``, ``torchvision:NAME``,
            ``pkg.mod:factory`` or ``file.py:factory``, kept as given.
        args: keyword arguments of the factory.
        data: that it was trained on, as for ``--data``.
        loss: that it was trained with, as for ``--loss``.
        extra: anything else worth keeping, such as ``lr``, ``batch_size`` or ``weight_decay``:
            numbers, texts, and lists and mappings of them.

    Returns:
        The path of the checkpoint.

    Raises:
        UsageError: there is no name, or a value cannot be kept in a file that is read without
            running code.
        FlatmeterError: a file cannot be written.
    """
    if name is None:
        raise _unnamed(model)
    saved = checkpoint.save(path, model, name=name, args=args, data=data, loss=loss, **extra)
    words = {"model": name, "data": data, "loss": loss}
    code = {k: _from(v, saved.parent) for k, v in words.items() if names_code(k, v)}
    beside = saved.with_name(saved.name + ".yaml")
    ours = not beside.exists() or beside.read_text(errors="replace").startswith(_HEADER)
    if code and ours:
        write_whole(beside, (_HEADER + yaml.safe_dump(code, sort_keys=False)).encode())
    elif ours:
        beside.unlink(missing_ok=True)
    return saved


def _unnamed(model: nn.Module) -> UsageError:
    """Weights alone cannot say what they belong to; where its class stands is a guess."""
    kind = type(model)
    library = kind.__module__.partition(".")[0]
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if library in ("torchvision", "timm"):
        guess = f"{library}:NAME"
    elif file is None or library in ("torch", "flatmeter"):
        guess = "file.py:factory"
    else:
        guess = f"{Path(file).name}:{kind.__name__}"
    return UsageError(
        "nothing says how to build the network again",
        where="flatmeter.save",
        hint=f"add name={guess!r}, or whichever factory built it, with its arguments as args={{…}}",
    )


def _from(spec: Any, folder: Path) -> Any:
    """``file.py:factory`` as seen from the folder of the checkpoint; anything else as it is."""
    if isinstance(spec, Mapping):
        return {k: _from(v, folder) if k == "name" else v for k, v in spec.items()}
    path, colon, attribute = str(spec).rpartition(":")
    if not path.endswith(".py"):
        return spec
    return f"{os.path.relpath(Path(path).expanduser(), folder)}{colon}{attribute}"
