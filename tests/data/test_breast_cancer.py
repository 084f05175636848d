"""The table against scikit-learn's own loader."""

import numpy as np
from sklearn.datasets import load_breast_cancer

from fedsim.core import registry


def test_it_has_the_rows_of_scikit_learn_standardised() -> None:
    method = registry.get("dataset", "breast-cancer")
    data = method.make(method.config())
    assert (len(data.train), len(data.test), data.spec.shape, data.task) == (455, 114, (30,), "tabular")
    assert np.allclose(data.train.inputs.mean(0), 0.0, atol=1e-5)
    assert np.allclose(data.train.inputs.std(0, correction=0), 1.0, atol=1e-5)
    both = load_breast_cancer()
    rows = np.concatenate([data.train.inputs.numpy(), data.test.inputs.numpy()])
    labels = np.concatenate([data.train.labels.numpy(), data.test.labels.numpy()])
    ranks = [np.sort(table[:, 0].argsort().argsort()) for table in (rows, both.data)]
    assert np.array_equal(*ranks)
    order, own = np.lexsort(both.data.T[::-1]), np.lexsort(rows.T[::-1])
    assert np.array_equal(both.target[order], labels[own])
    restored = data.train.inputs.numpy() * np.array(data.spec.std) + np.array(data.spec.mean)
    assert float(restored.min()) > -1e-5
    assert float(restored.max()) < 1 + 1e-5
