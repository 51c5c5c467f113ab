"""Which of the things that networks return the loss takes."""

from __future__ import annotations

from torch import Tensor

from flatmeter.errors import DataError


def logits_of(out: object) -> Tensor:
    """The outputs that the loss takes, from what a network returns."""
    if isinstance(out, Tensor):
        return out
    logits = out.get("logits") if isinstance(out, dict) else getattr(out, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(out, (tuple, list)) and out and isinstance(out[0], Tensor):
        return out[0]
    raise DataError(
        f"the network returns {type(out).__name__}, not a tensor of outputs",
        hint="wrap it in a module whose forward returns the logits",
    )
