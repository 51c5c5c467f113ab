"""The network of a checkpoint that nothing names, as names and shapes tell it."""

from __future__ import annotations

from typing import Any

from flatmeter.checkpoint import Checkpoint
from flatmeter.model.infer import Inference, infer


def settle_model(words: dict[str, Any], checkpoint: Checkpoint) -> Inference | None:
    """Where nothing names the network, what names and shapes say, filled in if it is certain.

    Args:
        words: what is said of the checkpoint; ``model`` and ``model_args`` are set.
        checkpoint: what was read. Where it names a network itself, nothing else is inferred.

    Raises:
        CheckpointRefused: stripping the prefixes of wrappers would make two names one.
    """
    own = checkpoint.metadata
    if words["model"] is not None or own.get("model"):
        return None
    says = own.get("stored", {}).get("arch")
    inference = infer(
        checkpoint.tensors, says=says if isinstance(says, str) else "", where=str(checkpoint.path)
    )
    if inference.chosen is not None:
        words["model"] = inference.chosen.model
        words["model_args"] = {**inference.chosen.args, **words["model_args"]}
    return inference


def recognised(inference: Inference | None) -> tuple[str, ...]:
    """A note on the network that names and shapes told."""
    if inference is None or inference.chosen is None:
        return ()
    return (f"the network is told by names and shapes: {inference.chosen}",)
