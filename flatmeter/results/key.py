"""The key of a measurement: equal keys mean an equal number, up to rounding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def key_of(ingredients: Mapping[str, Any]) -> str:
    """Hash of everything that the number depends on.

    That is: weights, network, data, loss, measure with its settings and definition version,
    seed, tolerances, batch-norm mode, dtype. Never the batch size, the device or the number of
    processes, which change it by rounding only.

    Args:
        ingredients: values that JSON can write, by name.

    Returns:
        32 hexadecimal digits.
    """
    text = json.dumps(ingredients, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
