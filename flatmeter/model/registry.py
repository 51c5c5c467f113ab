"""Networks by name: the zoo, torchvision, timm, Hugging Face folders, a person's own code."""

from __future__ import annotations

import copy
import difflib
import importlib
import importlib.util
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from flatmeter.errors import FlatmeterError, UsageError
from flatmeter.import_torchvision import import_torchvision
from flatmeter.importing import is_import_spec, load_object, raised_at
from flatmeter.model.hugging_face import build_hugging_face
from flatmeter.model.stem import with_first_layer
from flatmeter.model.zoo import ZOO

LIBRARIES = ("zoo", "torchvision", "timm", "hf")

#: Arguments by which libraries fetch or unpickle weights; the weights are the checkpoint's.
_WEIGHTS = {
    "torchvision": ("weights", "weights_backbone", "pretrained"),
    "timm": ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path"),
}


def library_of(spec: str) -> str:
    """The library, one of :data:`LIBRARIES`, that a name begins with; empty for a person's code."""
    head, colon, _ = spec.partition(":")
    return head if colon and head in LIBRARIES else ""


def build_model(
    spec: str, args: Mapping[str, Any] | None = None, *, initialised: bool = True
) -> nn.Module:
    """Build the network that a name stands for, with fresh weights.

    The state of torch's random generator is left as it was.

    Args:
        spec: ``mlp`` or ``zoo:mlp``, ``torchvision:resnet18``, ``timm:…``, ``hf:FOLDER``,
            ``pkg.mod:factory`` or ``file.py:factory``; a factory is a function or class that gives
            an ``nn.Module``, or such a module itself.
        args: keyword arguments of the factory.
        initialised: where all weights are to be replaced, large networks need not begin with any.

    Raises:
        UsageError: unknown name, arguments that the factory does not take, or code that fails.
        CheckpointRefused: the configuration in a folder is not one of a network that is built.
    """
    args = dict(args or {})
    if library_of(spec) == "hf":
        with torch.random.fork_rng(devices=[]):
            return build_hugging_face(spec.partition(":")[2], args, initialised=initialised)
    library, _, name = spec.rpartition(":")
    if library in ("", "zoo"):
        factory: Any = _known(name, ZOO, f"{library}:" if library else "")
    elif library == "torchvision":
        factory = _torchvision(name, args)
    elif library == "timm":
        factory = _timm(name, args)
    elif is_import_spec(spec):
        factory = _own(spec, library)
    else:
        raise _unknown(spec, LIBRARIES, library)
    if isinstance(factory, nn.Module):
        if args:
            raise UsageError(
                "it is a network already and takes no arguments",
                where=spec,
                hint="drop --model-arg",
            )
        # A module is imported once, but every checkpoint needs a network of its own.
        return copy.deepcopy(factory)
    return _built(factory, spec, args)


def names() -> dict[str, tuple[str, ...]]:
    """What can be built by name, by library; ``timm`` only where it is installed."""
    found = {
        "zoo": tuple(f"zoo:{name}" for name in ZOO),
        "torchvision": tuple(f"torchvision:{name}" for name in torchvision_names()),
    }
    if importlib.util.find_spec("timm") is not None:
        found["timm"] = tuple(f"timm:{name}" for name in timm_module().list_models())
    return found


def torchvision_names() -> list[str]:
    """Classification networks of torchvision."""
    import_torchvision()
    from torchvision import models

    return list(models.list_models(module=models))


def _torchvision(name: str, args: dict[str, Any]) -> Callable[..., nn.Module]:
    _refuse_weights("torchvision", args)
    _known(name, dict.fromkeys(torchvision_names()), "torchvision:")
    from torchvision import models

    args.setdefault("weights", None)
    return with_first_layer(models.get_model_builder(name), args, "in_channels")


def timm_module() -> Any:
    """timm, imported."""
    # Where torchvision's own import fails, timm's fails on it too.
    import_torchvision()
    return importlib.import_module("timm")


def _timm(name: str, args: dict[str, Any]) -> Callable[..., nn.Module]:
    if importlib.util.find_spec("timm") is None:
        raise UsageError("timm is not installed", where=f"timm:{name}", hint="pip install timm")
    _refuse_weights("timm", args)
    timm = timm_module()
    architecture = name.partition(".")[0]
    _known(architecture, dict.fromkeys(timm.list_models()), "timm:")
    return with_first_layer(
        lambda **given: timm.create_model(name, pretrained=False, **given), args, ""
    )


def _refuse_weights(library: str, args: Mapping[str, Any]) -> None:
    for name in _WEIGHTS[library]:
        if args.get(name):
            raise UsageError(
                f"{name} would fetch other weights than the checkpoint's",
                where="--model-arg",
                hint=f"drop {name}",
            )


def _own(spec: str, module: str) -> Any:
    """The person's own object; a misspelt library is told from a module that is missing."""
    close = difflib.get_close_matches(module, LIBRARIES, n=1, cutoff=0.7)
    try:
        factory = load_object(spec, where="--model")
    except UsageError as error:
        if close and isinstance(error.__cause__, ModuleNotFoundError):
            raise _unknown(spec, LIBRARIES, module) from error
        raise
    if isinstance(factory, nn.Module) or callable(factory):
        return factory
    raise UsageError(
        f"it is {type(factory).__name__}, not a network or a function that gives one", where=spec
    )


def _known(name: str, known: Mapping[str, Any], prefix: str) -> Any:
    if name in known:
        return known[name]
    raise _unknown(prefix + name, [prefix + other for other in known], prefix + name)


def _unknown(spec: str, known: Any, word: str) -> UsageError:
    close = difflib.get_close_matches(word.lower(), list(known), n=3, cutoff=0.5)
    nearest = f"did you mean {' or '.join(close)}? " if close else ""
    return UsageError(
        f"unknown network {spec!r}",
        where="--model",
        hint=f"{nearest}known: zoo:NAME ({', '.join(ZOO)}), torchvision:NAME, timm:NAME, "
        "hf:FOLDER, pkg.mod:factory, file.py:factory; see flatmeter list models",
    )


def _built(factory: Callable[..., Any], spec: str, args: Mapping[str, Any]) -> nn.Module:
    signature = _signature(factory)
    if signature is not None:
        try:
            signature.bind(**args)
        except TypeError as error:
            raise UsageError(f"{spec}: {error}", hint=_takes(signature)) from error
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # torchvision warns of its own initialisation, which the weights replace.
            warnings.simplefilter("ignore", FutureWarning)
            model = factory(**args)
    except FlatmeterError:
        raise
    except Exception as error:
        raise UsageError(
            f"it could not be built: {type(error).__name__}: {error}{raised_at(error)}",
            where=spec,
            hint=_takes(signature) if signature else None,
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"it gave {type(model).__name__}, not an nn.Module", where=spec)
    return model


def _signature(factory: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(factory)
    except (TypeError, ValueError):
        return None


def _takes(signature: inspect.Signature) -> str:
    """Its arguments with their defaults, without annotations."""
    shown = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return f"it takes: {', '.join(map(str, shown)) or 'nothing'}"
