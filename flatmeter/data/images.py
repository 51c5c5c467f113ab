"""Images to normalised tensors: one fixed transform, only for the samples that are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flatmeter.data.dataset import Dataset
from flatmeter.data.subset import Indexed, gather, subset_indices, subset_note
from flatmeter.import_torchvision import import_torchvision


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel, for pixels in ``[0, 1]``.

    Args:
        mean: per channel.
        std: per channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply_(self, pixels: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation, in place; ``[N, C, H, W]``."""
        mean = torch.tensor(self.mean).view(1, -1, 1, 1)
        return pixels.sub_(mean).div_(torch.tensor(self.std).view(1, -1, 1, 1))

    def __str__(self) -> str:
        mean, std = (", ".join(f"{v:g}" for v in part) for part in (self.mean, self.std))
        return f"pixels in [0, 1], then normalised by mean ({mean}) and std ({std})"


#: What torchvision's and timm's ImageNet models are trained with.
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def decode(
    source: Indexed,
    name: str,
    normalisation: Normalisation,
    *,
    size: int | None,
    samples: int | None,
    seed: int,
) -> Dataset:
    """The images of a (lazily read) data set as a normalised Dataset.

    Args:
        source: gives ``(PIL image, label)``.
        name: of the source.
        normalisation: of the pixels.
        size: to which images are resized and cropped; ``None`` leaves them.
        samples: size of a seeded subset, ``None`` for all.
        seed: of that subset.
    """
    indices = subset_indices(len(source), samples, seed)
    pixels, labels = gather(
        source, indices.tolist(), name, _transform(len(normalisation.mean), size)
    )
    classes = getattr(source, "classes", None)
    resized = () if size is None else (f"resized and centre-cropped to {size}×{size}",)
    return Dataset(
        inputs=normalisation.apply_(pixels),
        targets=labels,
        name=name,
        classes=len(classes) if classes else None,
        notes=(*resized, str(normalisation), *subset_note(len(source), len(indices), seed)),
        source_size=len(source),
    )


def _transform(channels: int, size: int | None) -> Callable[[Any], Tensor]:
    """Labels to int64, images to float32 ``[C, H, W]`` in ``[0, 1]``.

    The shorter side becomes 256/224 of ``size`` before the crop, as networks for ImageNet are
    evaluated.
    """
    import_torchvision()
    from torchvision.transforms import functional as F

    def tensor(value: Any) -> Tensor:
        if not hasattr(value, "convert"):
            return torch.tensor(int(value))
        image = value.convert("RGB" if channels == 3 else "L")
        if size is not None:
            image = F.center_crop(F.resize(image, round(size * 256 / 224)), [size, size])
        pixels: Tensor = F.to_tensor(image)
        return pixels

    return tensor
