"""The embedded data: 1,797 real 8×8 images of handwritten digits, in UCI's order."""

from __future__ import annotations

import io
from importlib import resources

import numpy as np
import torch

from flatmeter.data.dataset import Dataset
from flatmeter.data.subset import subset_indices, subset_note
from flatmeter.errors import DataError

#: The first 1,297 images are for training and the last 500 for testing; people are not mixed more
#: than the order of the source mixes them.
TRAIN = 1297
SPLITS = {"all": slice(None), "train": slice(0, TRAIN), "test": slice(TRAIN, None)}


def load_digits(split: str = "all", *, samples: int | None = None, seed: int = 0) -> Dataset:
    """UCI's optical digits, pixels 0 to 16 scaled to ``[0, 1]``.

    Args:
        split: ``all`` (1,797), ``train`` (the first 1,297) or ``test`` (the last 500).
        samples: size of a seeded subset, ``None`` for all.
        seed: of that subset.

    Returns:
        Inputs float32 ``[N, 1, 8, 8]`` and labels int64 ``[N]``.

    Raises:
        DataError: no such split.
    """
    if split not in SPLITS:
        raise DataError(
            f"digits have no split {split!r}", where="--data", hint="use digits:train or :test"
        )
    packed = resources.files("flatmeter.data").joinpath("digits.npz").read_bytes()
    with np.load(io.BytesIO(packed), allow_pickle=False) as file:
        images, labels = file["images"][SPLITS[split]], file["labels"][SPLITS[split]]
    indices = subset_indices(len(images), samples, seed)
    inputs = torch.from_numpy(images).unsqueeze(1)[indices].float() / 16
    return Dataset(
        inputs=inputs,
        targets=torch.from_numpy(labels)[indices].long(),
        name="digits" if split == "all" else f"digits:{split}",
        classes=10,
        notes=("pixels in [0, 1]", *subset_note(len(images), len(indices), seed)),
        source_size=len(images),
    )
