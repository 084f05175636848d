"""CIFAR-10 in each layout, and what is said when it is missing."""

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torchvision.datasets import CIFAR10

from fedsim.core.errors import FedsimError
from fedsim.data.cifar10 import Cifar10Config, cifar10

CIFAR_PACK = Path(
    os.environ.get("FEDSIM_CIFAR10_PACK", Path(__file__).parents[2].parent / "shared" / "data" / "cifar10_jpeg_12k.npz")
)


def _pickled_long_ago(file: Path, content: dict[str, Any]) -> str:
    """Pickle with the integers that old versions of NumPy wrote for booleans; return the checksum."""
    file.write_bytes(pickle.dumps(content, protocol=0).replace(b"I00\n", b"I0\n").replace(b"I01\n", b"I1\n"))
    return hashlib.md5(file.read_bytes()).hexdigest()


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
