"""Files that are read only by running the code in them, where a person asks for that.

Everything else in this room runs nothing; this is the door that ``--trust-pickle`` opens.
"""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from flatmeter.checkpoint.checkpoint import Checkpoint
from flatmeter.checkpoint.content import Content
from flatmeter.checkpoint.formats import Format
from flatmeter.checkpoint.pickle_names import unusual
from flatmeter.checkpoint.recognise import recognise
from flatmeter.checkpoint.save import unwrapped
from flatmeter.errors import CheckpointRefused
from flatmeter.importing import beside_torchvision, importable, raised_at

#: Formats that are read in no other way.
CODE = frozenset({Format.TORCHSCRIPT, Format.PICKLE})
_TORCH = frozenset({Format.TORCH_ZIP, Format.TORCH_LEGACY})
#: PyTorch's own variable by which a machine's owner keeps its doors shut.
_FORBIDDEN = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_TRUE = ("1", "y", "yes", "true")
_SHOWN = 10
#: Networks are looked for as deep as weights are.
_DEPTH = 4


class _NotThere(Exception):
    """A class or function that a pickle names and nothing provides."""

    def __init__(self, module: str, name: str, error: Exception) -> None:
        super().__init__(str(error))
        self.module, self.name = module, name


def read_trusted(path: Path) -> Content:
    """What a file holds, with its code run; networks in it are their weights by name.

    Of a TorchScript file only the weights are taken. Classes are imported from the current folder
    too.

    Args:
        path: of the file.

    Raises:
        CheckpointRefused: it is a folder, names what cannot be imported, or its code fails.
    """
    if os.environ.get(_FORBIDDEN, "").lower() in _TRUE:
        raise CheckpointRefused(
            f"its code is not run: {_FORBIDDEN} forbids it",
            where=str(path),
            hint="whoever set that variable wants no file's code to be run here",
        )
    found = recognise(path)
    if found not in CODE and found not in _TORCH:
        raise CheckpointRefused(
            "files in a folder are not run",
            where=str(path),
            hint="name the file of weights itself",
        )
    names: dict[str, None] = {}
    try:
        with importable(Path.cwd()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if found is Format.TORCHSCRIPT:
                value = torch.jit.load(str(path), map_location="cpu").state_dict()
                names["a TorchScript program"] = None
            else:
                value = _unpickled(path, names, bare=found is Format.PICKLE)
    except _NotThere as error:
        raise _missing(path, error) from error
    except (Exception, SystemExit) as error:
        raise CheckpointRefused(
            f"its code failed when it was run: {type(error).__name__}: {error}{raised_at(error)}",
            where=str(path),
            hint="re-save the weights where they were trained: "
            "torch.save(model.state_dict(), 'weights.pt')",
        ) from error
    modules: dict[str, nn.Module] = {}
    value = _weights(value, "", modules, _DEPTH)
    note = f"its code was run, as --trust-pickle says: {_listed(unusual(names) or list(names))}"
    return Content(value, notes=(note,), ran=tuple(names), modules=modules)


def _unpickled(path: Path, names: dict[str, None], *, bare: bool) -> Any:
    """The object in a file.

    Args:
        path: of the file.
        names: gets the classes and functions that it names.
        bare: it does not begin as what torch writes.
    """

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            names[f"{module}.{name}"] = None
            try:
                return beside_torchvision(lambda: super(Unpickler, self).find_class(module, name))
            except (ImportError, AttributeError) as error:
                raise _NotThere(module, name, error) from error

    def load(file: IO[bytes], **options: Any) -> Any:
        return Unpickler(file, **options).load()

    way = SimpleNamespace(__name__=__name__, Unpickler=Unpickler, load=load)
    with path.open("rb") as file:
        if bare:
            first = load(file)
            # torch's old format under another protocol begins so.
            if first != torch.serialization.MAGIC_NUMBER:
                return first
            file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=False, pickle_module=way)


def network_of(checkpoint: Checkpoint) -> tuple[nn.Module, tuple[str, ...]]:
    """The network that was unpickled with its weights, and notes on it."""
    module = checkpoint.module
    if module is None:
        raise ValueError("no network was unpickled")
    notes = [f"the network is the one in the file: {type(module).__name__}"]
    if not any(p.requires_grad for p in module.parameters()):
        # Copies that keep averaged weights are frozen as a whole.
        module.requires_grad_(True)
        notes.append("all its parameters are frozen in the file; they are measured as free ones")
    return module, tuple(notes)


def _weights(value: Any, place: str, modules: dict[str, nn.Module], depth: int) -> Any:
    """The value with the weights by name of each network in it.

    Args:
        value: what was unpickled.
        place: its dotted path.
        modules: gets the networks that can be evaluated, by their dotted paths.
        depth: how deep to look.
    """
    if isinstance(value, nn.Module):
        module = unwrapped(value)
        if isinstance(module, AveragedModel):
            module = unwrapped(module.module)
        if type(module).forward is not nn.Module.forward:
            modules[place] = module
        return module.state_dict()
    if depth and isinstance(value, Mapping):
        return {
            k: _weights(v, f"{place}.{k}" if place else str(k), modules, depth - 1)
            for k, v in value.items()
        }
    return value


def _missing(path: Path, error: _NotThere) -> CheckpointRefused:
    again = "torch.save(model.state_dict(), 'weights.pt')"
    if error.module == "__main__":
        return CheckpointRefused(
            f"its {error.name} was defined in the script that saved it, and cannot be imported",
            where=str(path),
            hint=f"re-save the weights in that script: {again}\n"
            "and name the network when they are measured: --model path/to/script.py:factory",
        )
    return CheckpointRefused(
        f"its {error.module}.{error.name} cannot be imported: {error}",
        where=str(path),
        hint="run this in the folder of the code that saved it, or put that folder on PYTHONPATH;\n"
        f"or re-save the weights alone where they were trained: {again}",
    )


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest
