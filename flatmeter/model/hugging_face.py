"""Networks of Hugging Face folders, built by transformers from ``config.json`` alone.

Nothing is fetched, no code of a folder is run, and weights are read by flatmeter's own readers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from flatmeter.data.text import TOKENIZERS, Tokenizer
from flatmeter.data.tokens import PARTS
from flatmeter.errors import CheckpointRefused, UsageError
from flatmeter.free_memory import free_memory
from flatmeter.import_transformers import import_transformers
from flatmeter.model.hugging_face_config import (
    PREFIX,
    PROVENANCE,
    FolderConfig,
    Head,
    read_config,
)

#: Settled by how a network is measured, whatever a configuration says.
_OURS: Mapping[str, Any] = {
    "use_cache": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
}
#: May name kernels that are fetched; the attention of PyTorch has every derivative.
_KERNELS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
#: These compute in float32 whatever they are given, and nn.RMSNorm otherwise computes the same.
_NORMS = ("LlamaRMSNorm",)
_ALLOCATING = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
_FILLING = frozenset(
    {
        "normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_",
        "xavier_normal_", "xavier_uniform_", "orthogonal_", "sparse_", "zeros_", "ones_",
        "constant_", "zero_", "fill_",
    }
)  # fmt: skip


def build_hugging_face(
    source: str | Path, args: Mapping[str, Any] | None = None, *, initialised: bool = True
) -> nn.Module:
    """The network of a folder, in evaluation mode.

    It takes tokens ``[n, T]`` (or ``[n, k, T]``, the first k of
    :data:`~flatmeter.data.tokens.PARTS`) or images and gives
    logits: ``[n, K]``; ``[n, T, K]`` of next tokens; ``[n, K, T]`` where every token has a class.

    Args:
        source: the folder, or its ``config.json``.
        args: values in place of the configuration's.
        initialised: give its weights values; without, they are whatever the memory held.

    Raises:
        UsageError: there is no such folder, or transformers is not installed.
        CheckpointRefused: the configuration is not one of a network that is built.
    """
    config = read_config(source, args)
    transformers = import_transformers()
    kind = getattr(transformers, config.architecture)
    own = kind.config_class
    said = config.values.get("model_type")
    if said not in (None, own.model_type):
        raise CheckpointRefused(
            f"it contradicts itself: {config.architecture} is no network of model_type {said!r}",
            where=str(config.path),
        )
    values = {k: v for k, v in config.values.items() if k not in (*_KERNELS, *PROVENANCE)}
    try:
        settings = own.from_dict({**values, **_OURS})
        settings._attn_implementation = "sdpa"
        with _Building(initialised):
            model: nn.Module = kind(settings)
    except Exception as error:
        raise CheckpointRefused(
            f"transformers builds no network from it: {type(error).__name__}: {error}",
            where=str(config.path),
        ) from error
    _replace_norms(model)
    model.register_forward_pre_hook(_Inputs(config.head), with_kwargs=True)
    model.register_forward_hook(_Logits(config.head))
    return model.eval()


def describe(source: str | Path, args: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What of such a network decides its numbers, wherever the folder is."""
    config = read_config(source, args)
    return {"model": PREFIX + config.architecture, "config": config.digest}


def config_of(spec: Any, args: Mapping[str, Any] | None = None) -> FolderConfig | None:
    """The configuration that ``--model`` names, ``None`` for a network of another kind.

    Raises:
        UsageError: there is no such folder.
        CheckpointRefused: its network is not one that is built.
    """
    named = isinstance(spec, str) and spec.startswith(PREFIX)
    return read_config(spec[len(PREFIX) :], args) if named else None


def tokenizer_of(spec: Any, args: Mapping[str, Any] | None, path: Path) -> Tokenizer | None:
    """The tokenizer beside a network's configuration, or in the folder of its weights.

    Args:
        spec: as for ``--model``.
        args: of the network.
        path: of the checkpoint.

    Raises:
        UsageError: the network is one for something else.
    """
    config = config_of(spec, args)
    if config is not None and config.head is not Head.NEXT_TOKEN:
        raise UsageError(
            f"{config.architecture} {config.head.value}: it predicts no next token of a text",
            where="--data",
            hint="give its inputs and labels in a file, such as FILE.pt",
        )
    folders = [config.path.parent] if config else []
    folders += [path] if path.is_dir() else []
    if not folders:
        return None
    found = (f for f in folders if any((f / name).exists() for name in TOKENIZERS))
    return Tokenizer(next(found, folders[0]), config.positions if config else None)


def takes_parts(model: nn.Module) -> bool:
    """Whether a network takes a mask and other parts stacked with the tokens."""
    hooks = model._forward_pre_hooks.values()
    return any(isinstance(hook, _Inputs) and hook.head.reads_text for hook in hooks)


class _Inputs:
    """Gives the network its one tensor of inputs by the names that it knows."""

    def __init__(self, head: Head) -> None:
        self.head = head

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]]:
        (x,) = args
        if not self.head.reads_text:
            return (), {"pixel_values": x}
        if x.dim() != 3:
            return (), {"input_ids": x}
        return (), dict(zip(PARTS, x.unbind(1), strict=False))


class _Logits:
    """Takes the logits from what the network returns, classes second where losses want them so."""

    def __init__(self, head: Head) -> None:
        self.head = head

    def __call__(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> Tensor:
        logits: Tensor = out.logits
        return logits.movedim(-1, 1) if self.head is Head.TOKENS else logits


class _Building(TorchFunctionMode):
    """Makes no more weights than memory has room for, whatever sizes a configuration says.

    Args:
        initialised: give parameters values; without, they are to be read anyway.
    """

    def __init__(self, initialised: bool) -> None:
        super().__init__()
        self.initialised = initialised
        # Where only shapes are wanted, any size will do.
        self.left = math.inf if torch.empty(0).is_meta else free_memory(torch.device("cpu"))

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        first = args[0] if args else kwargs.get("tensor")
        filling = getattr(func, "__name__", "") in _FILLING and isinstance(first, nn.Parameter)
        if filling and not self.initialised:
            return first
        if func in _ALLOCATING:
            self.left -= func(*args, **{**kwargs, "device": "meta"}).nbytes
            if self.left < 0:
                raise MemoryError("its weights would take more memory than is free")
        return func(*args, **kwargs)


def _replace_norms(model: nn.Module) -> None:
    for name, module in list(model.named_modules()):
        if type(module).__name__ in _NORMS:
            weight = module.get_parameter("weight")
            norm = nn.RMSNorm(tuple(weight.shape), eps=float(module.variance_epsilon))
            norm.weight = weight
            model.set_submodule(name, norm)
