"""Images in one folder for each class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from flatmeter.data.sources import load_data
from flatmeter.errors import DataError

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def write_images(folder, per_class=3, size=(40, 50)):
    rng = np.random.default_rng(0)
    for name in ("cat", "ant"):
        (folder / name).mkdir()
        for i in range(per_class):
            pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def test_classes_in_sorted_order(tmp_path):
    write_images(tmp_path)
    data = load_data(f"imagefolder:32@{tmp_path}")
    assert data.inputs.shape == (6, 3, 32, 32)
    assert data.inputs.dtype == torch.float32
    assert data.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.classes == 2
    assert any("0.485" in note for note in data.notes)
    assert any("32×32" in note for note in data.notes)


def test_default_size(tmp_path):
    write_images(tmp_path, per_class=1)
    assert load_data(f"imagefolder@{tmp_path}").inputs.shape == (2, 3, 224, 224)


def test_plain_colours_survive_resizing_and_are_normalised(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (60, 80), (255, 51, 0)).save(tmp_path / "a" / "0.png")
    found = load_data(f"imagefolder:16@{tmp_path}").inputs[0]
    colour = torch.tensor([1.0, 0.2, 0.0]).view(3, 1, 1)
    torch.testing.assert_close(found, ((colour - MEAN) / STD).expand(3, 16, 16))


def test_gray_and_transparent_images_become_colours(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("L", (60, 60), 255).save(tmp_path / "a" / "0.png")
    Image.new("RGBA", (60, 60), (255, 255, 255, 255)).save(tmp_path / "a" / "1.png")
    found = load_data(f"imagefolder:16@{tmp_path}").inputs
    torch.testing.assert_close(found[0], found[1])


def test_subset(tmp_path):
    write_images(tmp_path, per_class=6)
    whole = load_data(f"imagefolder:16@{tmp_path}", samples=None)
    part = load_data(f"imagefolder:16@{tmp_path}", samples=4, seed=1)
    assert len(part) == 4
    matches = [(whole.inputs == x).flatten(1).all(1).nonzero().item() for x in part.inputs]
    assert matches == sorted(matches)
    assert torch.equal(part.targets, whole.targets[matches])


def refused(spec) -> str:
    with pytest.raises(DataError) as caught:
        load_data(spec)
    return str(caught.value)


def test_missing_folder(tmp_path):
    assert "no such folder" in refused(f"imagefolder@{tmp_path}/nowhere")


def test_no_classes(tmp_path):
    assert "folder of their own" in refused(f"imagefolder@{tmp_path}")


def test_class_without_images(tmp_path):
    (tmp_path / "cat").mkdir()
    assert str(tmp_path) in refused(f"imagefolder@{tmp_path}")


def test_splits_are_not_classes(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
    assert f"imagefolder@{tmp_path / 'train'}" in refused(f"imagefolder@{tmp_path}")


def test_damaged_image_is_named(tmp_path):
    write_images(tmp_path, per_class=1)
    (tmp_path / "cat" / "0.png").write_bytes(b"no image")
    assert "sample 1 cannot be read" in refused(f"imagefolder:16@{tmp_path}")


@pytest.mark.parametrize("size", ["big", "0", "-3", "100000"])
def test_size(tmp_path, size):
    assert "not a size" in refused(f"imagefolder:{size}@{tmp_path}")
