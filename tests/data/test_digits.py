"""Digits against those that scikit-learn loads."""

import sys

import pytest
import torch

from fedsim.data.digits import DigitsConfig, digits
from tests.data.installed import need


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


def test_digits_are_normalised() -> None:
    need("sklearn")
    dataset = digits(DigitsConfig())
    assert len(dataset.train) + len(dataset.test) == 1797
    assert abs(dataset.train.inputs.mean()) < 0.01
    assert abs(dataset.train.inputs.std() - 1) < 0.01
