"""What was read from a checkpoint file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors and what the file says about them.

    Args:
        path: of the file.
        format: its name, as ``flatmeter list formats`` shows it.
        tensors: weights and buffers by name, on the CPU, in the dtype of the file.
        metadata: what :func:`flatmeter.save` wrote: ``model``, ``model_args``, ``data``, ``loss``
            and whatever was added; of other files, plain values beside the weights, under
            ``stored``. A stranger's word: what it names is not to be imported on its account.
        sha256: of the file's bytes.
        key: dotted path of the entry that the weights were taken from, empty for the whole file.
        notes: which of several candidates was taken, and the like.
        ran: classes and functions of the file that were run (``--trust-pickle``); empty for every
            file that was read as data.
        module: the network itself, where such a file holds it.
    """

    path: Path
    format: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""
    key: str = ""
    notes: tuple[str, ...] = ()
    ran: tuple[str, ...] = ()
    module: nn.Module | None = None
