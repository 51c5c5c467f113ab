"""The network of a checkpoint that nothing names, as names and shapes tell it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from torch import Tensor

from flatmeter.checkpoint import Checkpoint, Format
from flatmeter.checkpoint.fit import Wanted, under_names
from flatmeter.model.hugging_face_config import PREFIX
from flatmeter.model.infer import Inference, infer
from flatmeter.model.layout import Difference
from flatmeter.model.library_layouts import layout_of, without_memory
from flatmeter.model.registry import build_model


def settle_model(
    words: dict[str, Any],
    checkpoint: Checkpoint,
    tell: Callable[[str], None] = warnings.warn,
    infer: Callable[..., Inference] = infer,
) -> Inference | None:
    """Where nothing names the network, what the checkpoint itself tells of it, if it is certain.

    A Hugging Face folder has a configuration; of other files names and shapes are looked at.

    Args:
        words: what is said of the checkpoint; ``model`` and ``model_args`` are set.
        checkpoint: what was read. Where it names a network itself, nothing else is inferred.
        tell: given a sentence before minutes are spent.
        infer: compares names and shapes with libraries.

    Raises:
        CheckpointRefused: stripping the prefixes of wrappers would make two names one.
    """
    own = checkpoint.metadata
    if words["model"] is not None or own.get("model"):
        return None
    if checkpoint.format == Format.HUGGING_FACE.value:
        words["model"] = f"{PREFIX}{checkpoint.path}"
        return None
    inference = infer(
        checkpoint.tensors,
        says=_name(own.get("stored", {})),
        where=str(checkpoint.path),
        tell=tell,
    )
    if inference.chosen is not None:
        words["model"] = inference.chosen.model
        words["model_args"] = {**inference.chosen.args, **words["model_args"]}
    return inference


def inferring_once() -> Callable[..., Inference]:
    """:func:`infer`, which looks at no number, once for each set of names and shapes."""
    known: dict[Hashable, Inference] = {}

    def inferred(
        tensors: Mapping[str, Tensor], *, says: str, where: str, tell: Callable[[str], None]
    ) -> Inference:
        key = (says, *((name, tuple(tensor.shape)) for name, tensor in tensors.items()))
        if key not in known:
            known[key] = infer(tensors, says=says, where=where, tell=tell)
        return known[key]

    return inferred


def _name(stored: Mapping[str, Any]) -> str:
    """What a training script called its network: timm, PyTorch's and torchvision's examples do."""
    flags = stored.get("args")
    flags = flags if isinstance(flags, Mapping) else {}
    said = (stored.get("arch"), flags.get("model"), flags.get("arch"))
    return next((name for name in said if isinstance(name, str)), "")


def recognised(inference: Inference | None) -> tuple[str, ...]:
    """A note on the network that names and shapes told."""
    if inference is None or inference.chosen is None:
        return ()
    return (f"the network is told by names and shapes: {inference.chosen}",)


def compared_with(
    model: str, args: Mapping[str, Any], checkpoint: Checkpoint
) -> tuple[Difference, tuple[str, ...]]:
    """How weights differ from a network of a library, and what was stripped from their names.

    Args:
        model: as for ``--model``; no code of a person's own.
        args: of its factory.
        checkpoint: what was read.

    Raises:
        UsageError: there is no such network, or it does not take the arguments.
        CheckpointRefused: stripping the prefixes of wrappers would make two names one.
    """
    with without_memory():
        network = build_model(model, args)
    wanted = Wanted(network)
    state, renaming = under_names(wanted, checkpoint.tensors, str(checkpoint.path))
    difference = Difference(
        layout=layout_of(network, model, args),
        missing=tuple(wanted.missing(state)),
        unexpected=tuple(wanted.unexpected(state)),
        misshaped=tuple(
            (name, tuple(tensor.shape), tuple(wanted.tensors[name].shape))
            for name, tensor in state.items()
            if name in wanted.tensors and tensor.shape != wanted.tensors[name].shape
        ),
        args=args,
    )
    return difference, renaming.notes
