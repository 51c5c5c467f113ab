"""A folder of images, one folder for each class."""

from __future__ import annotations

from pathlib import Path

from flatmeter.data.dataset import Dataset
from flatmeter.data.images import IMAGENET, decode
from flatmeter.errors import DataError
from flatmeter.import_torchvision import import_torchvision

SIZE = 224
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def load_image_folder(
    folder: Path, *, size: int = SIZE, samples: int | None = None, seed: int = 0
) -> Dataset:
    """Images of a folder, resized, centre-cropped and normalised as for ImageNet.

    Args:
        folder: with one folder for each class; classes are numbered in sorted order.
        size: of the images, in pixels.
        samples: size of a seeded subset, ``None`` for all.
        seed: of that subset.

    Returns:
        Inputs float32 ``[N, 3, size, size]`` and labels int64 ``[N]``.

    Raises:
        DataError: no such folder, no class folders, or an image that cannot be read.
    """
    if not folder.is_dir():
        raise DataError("no such folder", where=str(folder), hint="check --data imagefolder@DIR")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if len(classes) > 1 and all(name.lower() in _SPLITS for name in classes):
        raise DataError(
            f"its folders are splits ({', '.join(classes)}), not classes",
            where=str(folder),
            hint=f"name one: imagefolder@{folder / classes[0]}",
        )
    import_torchvision()
    from torchvision.datasets import ImageFolder

    try:
        source = ImageFolder(str(folder))
    except (FileNotFoundError, OSError) as error:
        raise DataError(
            f"no images by class: {str(error).splitlines()[0]}",
            where=str(folder),
            hint="put the images of each class in a folder of their own",
        ) from error
    name = f"imagefolder:{size}@{folder}"
    return decode(source, name, IMAGENET, size=size, samples=samples, seed=seed)
