"""Data sets of torchvision, read from a local folder: never downloaded, never augmented."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flatmeter.data.dataset import Dataset
from flatmeter.data.images import IMAGENET, Normalisation, decode
from flatmeter.errors import DataError
from flatmeter.import_torchvision import import_torchvision


@dataclass(frozen=True)
class Entry:
    """What of a torchvision data set has to be known to read it.

    Args:
        normalisation: the mean and standard deviation that are usual for it, per channel.
        splits: our names of the splits, the first being the default, with torchvision's arguments.
        size: to which images are resized and cropped; ``None`` where all have one size.
    """

    normalisation: Normalisation
    splits: Mapping[str, Mapping[str, Any]]
    size: int | None = None


def _named(*splits: str) -> dict[str, dict[str, Any]]:
    return {split: {"split": split} for split in splits}


_TRAIN_TEST = {"train": {"train": True}, "test": {"train": False}}

KNOWN: Mapping[str, Entry] = MappingProxyType(
    {
        "MNIST": Entry(Normalisation((0.1307,), (0.3081,)), _TRAIN_TEST),
        "FashionMNIST": Entry(Normalisation((0.2860,), (0.3530,)), _TRAIN_TEST),
        "KMNIST": Entry(Normalisation((0.1918,), (0.3483,)), _TRAIN_TEST),
        "CIFAR10": Entry(
            Normalisation((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)), _TRAIN_TEST
        ),
        "CIFAR100": Entry(
            Normalisation((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)), _TRAIN_TEST
        ),
        "SVHN": Entry(
            Normalisation((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
            _named("train", "test", "extra"),
        ),
        "STL10": Entry(
            Normalisation((0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)),
            _named("train", "test"),
        ),
        "Imagenette": Entry(IMAGENET, _named("train", "val"), size=224),
        "Food101": Entry(IMAGENET, _named("train", "test"), size=224),
        "Flowers102": Entry(IMAGENET, _named("train", "val", "test"), size=224),
        "DTD": Entry(IMAGENET, _named("train", "val", "test"), size=224),
        "OxfordIIITPet": Entry(IMAGENET, _named("trainval", "test"), size=224),
        "FGVCAircraft": Entry(IMAGENET, _named("trainval", "train", "val", "test"), size=224),
    }
)


def load_torchvision(
    name: str, split: str, folder: Path, *, samples: int | None = None, seed: int = 0
) -> Dataset:
    """A split of a data set that lies in a folder as torchvision stores it.

    Args:
        name: of the data set's class, such as ``CIFAR10``.
        split: of the data set; empty for the one that networks are trained on.
        folder: torchvision's ``root``.
        samples: size of a seeded subset, ``None`` for all.
        seed: of that subset.

    Returns:
        Inputs float32 ``[N, C, H, W]``, normalised per channel, and labels int64 ``[N]``.

    Raises:
        DataError: unknown data set or split, or the folder does not hold it.
    """
    entry = _entry(name)
    split = split or next(iter(entry.splits))
    where = f"torchvision:{name}:{split}@{folder}"
    if split not in entry.splits:
        raise DataError(
            f"{name} has no split {split!r}",
            where="--data",
            hint=f"it has: {', '.join(entry.splits)}",
        )
    if not folder.is_dir():
        raise DataError(
            "no such folder", where=str(folder), hint=_download(name, entry.splits[split], folder)
        )
    source = _open(name, entry.splits[split], folder, where)
    return decode(source, where, entry.normalisation, size=entry.size, samples=samples, seed=seed)


def _entry(name: str) -> Entry:
    if name in KNOWN:
        return KNOWN[name]
    folded = {known.lower(): known for known in KNOWN}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    nearest = f"did you mean {folded[close[0]]}? " if close else ""
    raise DataError(
        f"no torchvision data set {name!r} is known",
        where="--data",
        hint=f"{nearest}known: {', '.join(KNOWN)}; for others write file.py:factory",
    )


def _open(name: str, arguments: Mapping[str, Any], folder: Path, where: str) -> Any:
    import_torchvision()
    from torchvision import datasets

    try:
        return getattr(datasets, name)(root=str(folder), download=False, **arguments)
    except Exception as error:
        # torchvision's own advice is to pass download=True, which is not ours to take.
        said = str(error).partition(" You can use download")[0].strip()
        raise DataError(
            f"cannot be read: {said or type(error).__name__}",
            where=where,
            hint=_download(name, arguments, folder),
        ) from error


def _download(name: str, arguments: Mapping[str, Any], folder: Path) -> str:
    given = "".join(f", {key}={value!r}" for key, value in arguments.items())
    return (
        "flatmeter downloads nothing; in Python, on a machine with a network:\n"
        f"  torchvision.datasets.{name}({str(folder)!r}{given}, download=True)"
    )
