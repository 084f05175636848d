"""Folders of pictures: classes, sizes, corrupt files, and what is missing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedsim.core.errors import FedsimError
from fedsim.data.image_folder import ImageFolderConfig, image_folder


def test_image_folder_names_its_classes(photo_folder: Path) -> None:
    dataset = image_folder(ImageFolderConfig(path=photo_folder, size=16))
    assert dataset.class_names == ("cat", "dog", "owl")
    assert dataset.train.labels.bincount().tolist() == [8, 8, 8]
    assert dataset.test.labels.bincount().tolist() == [2, 2, 2]


def test_image_folder_of_several_sizes_needs_one(photo_folder: Path) -> None:
    with pytest.raises(FedsimError, match=r"Set data\.size"):
        image_folder(ImageFolderConfig(path=photo_folder, size=None))


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n broken"])
def test_a_corrupt_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cat").mkdir()
    for index in range(5):
        (tmp_path / "cat" / f"{index}.png").write_bytes(content)
    with pytest.raises(FedsimError, match=r"cat/\d\.png"):
        image_folder(ImageFolderConfig(path=tmp_path))


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for index in range(5):
        file = tmp_path / "cat" / f"{index}.png"
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (50, 50, 3), dtype=np.uint8)).save(file)
        file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(FedsimError, match=r"cat/\d\.png"):
        image_folder(ImageFolderConfig(path=tmp_path))


def test_image_folder_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="no folder"):
        image_folder(ImageFolderConfig(path=tmp_path / "nowhere"))
    with pytest.raises(FedsimError, match="no subfolders"):
        image_folder(ImageFolderConfig(path=tmp_path))
    (tmp_path / "cat").mkdir()
    with pytest.raises(FedsimError, match="holds no PNG or JPEG"):
        image_folder(ImageFolderConfig(path=tmp_path))
    Image.new("L", (4, 4)).save(tmp_path / "cat" / "0.png")
    with pytest.raises(FedsimError, match="at least 5"):
        image_folder(ImageFolderConfig(path=tmp_path))
