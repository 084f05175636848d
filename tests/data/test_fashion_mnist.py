"""Fashion-MNIST in each layout, and files that are corrupt."""

from pathlib import Path

import pytest
from torchvision.datasets import FashionMNIST

from fedsim.core.errors import FedsimError
from fedsim.data.fashion_mnist import FashionMnistConfig, fashion_mnist

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not DEBIAN_FASHION.is_dir(), reason="apt-get install dataset-fashion-mnist")
def test_fashion_mnist_of_debian() -> None:
    dataset = fashion_mnist(FashionMnistConfig())
    assert dataset.train.labels.bincount().tolist() == [6000] * 10
    assert dataset.test.labels.bincount().tolist() == [1000] * 10
    assert abs(dataset.train.inputs.mean()) < 1e-3
    assert abs(dataset.train.inputs.std() - 1) < 1e-3


def test_fashion_mnist_of_a_torchvision_root(fashion_folder: Path, tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.parent.mkdir()
    raw.symlink_to(fashion_folder)
    dataset = fashion_mnist(FashionMnistConfig(path=tmp_path))
    assert dataset.spec.shape == (1, 28, 28)
    assert dataset.class_names[1] == FashionMNIST.classes[1].lower()


@pytest.mark.parametrize("content", [b"", b"not gzip", b"\x1f\x8b\x08\x00broken"])
def test_a_corrupt_idx_file_is_named(fashion_folder: Path, tmp_path: Path, content: bytes) -> None:
    for file in fashion_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(FedsimError, match=r"train-images-idx3-ubyte\.gz"):
        fashion_mnist(FashionMnistConfig(path=tmp_path))


def test_an_idx_file_of_the_wrong_length_is_named(fashion_folder: Path, tmp_path: Path) -> None:
    for file in fashion_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes((fashion_folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    with pytest.raises(FedsimError, match="20 train images but 40 labels"):
        fashion_mnist(FashionMnistConfig(path=tmp_path))
