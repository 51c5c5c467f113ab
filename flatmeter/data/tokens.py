"""Sequences of tokens as data: with a mask, with labels, or as what the next token is told from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from flatmeter.data.dataset import Dataset
from flatmeter.errors import DataError

PARTS = ("input_ids", "attention_mask", "token_type_ids")
"""What a sequence may be given by, as tokenizers call it."""

IGNORED = -100
"""Label of what does not count, as in PyTorch and transformers."""


def are_tokens(value: object) -> bool:
    """Integers ``[n, T]``."""
    if not isinstance(value, Tensor):
        return False
    return value.dim() == 2 and not value.is_floating_point() and value.dtype != torch.bool


def token_dataset(parts: Mapping[str, Tensor], targets: Tensor | None, name: str) -> Dataset:
    """Sequences ``[n, T]``, or ``[n, k, T]`` of the first k of :data:`PARTS` where more count.

    A mask of ones and types of zeros count for nothing and are left out. Without targets each token
    is to be predicted from those before it; what the mask leaves out does not count.

    Args:
        parts: ``input_ids`` and others of :data:`PARTS`, each ``[n, T]``.
        targets: of whatever shape.
        name: where they came from.

    Raises:
        DataError: the parts are not integers of one shape.
    """
    ids = parts["input_ids"]
    for part, value in parts.items():
        if value.dtype == torch.bool:
            value = value.long()
        if not are_tokens(value) or value.shape != ids.shape:
            kind = str(value.dtype).removeprefix("torch.")
            raise DataError(
                f"{part} are {kind} {list(value.shape)}, not integers "
                f"{list(ids.shape) if part != 'input_ids' else '[n, T]'}",
                where=name,
                hint="give sequences of one length, padded where they must be, with attention_mask",
            )
    mask = parts.get("attention_mask", torch.ones_like(ids)).long()
    types = parts.get("token_type_ids", torch.zeros_like(ids)).long()
    kept = 3 if bool(types.any()) else 2 if not bool(mask.all()) else 1
    stacked = torch.stack([ids.long(), mask, types][:kept], 1)
    own = ids.long().masked_fill(mask == 0, IGNORED)
    return Dataset(
        inputs=ids.long() if kept == 1 else stacked,
        targets=own if targets is None else targets,
        name=name,
        loss="causal_lm" if targets is None else None,
        parts=PARTS[:kept] if kept > 1 else (),
    )
