"""The table against scikit-learn's own loader."""

import numpy as np
from sklearn.datasets import load_diabetes

from fedsim.core import registry


def test_it_has_the_rows_and_numbers_of_scikit_learn_standardised() -> None:
    method = registry.get("dataset", "diabetes")
    data = method.make(method.config())
    assert (len(data.train), len(data.test), data.spec.shape, data.task) == (354, 88, (10,), "regression")
    for column in (data.train.inputs, data.train.labels):
        assert np.allclose(column.mean(0), 0.0, atol=1e-5)  # single precision over 354 rows
        assert np.allclose(column.std(0, correction=0), 1.0, atol=1e-5)
    both = load_diabetes(scaled=False)
    rows = np.concatenate([data.train.inputs.numpy(), data.test.inputs.numpy()])
    labels = np.concatenate([data.train.labels.numpy(), data.test.labels.numpy()])[:, 0]
    ours, theirs = np.corrcoef(rows.T, labels), np.corrcoef(both.data.T, both.target)
    assert np.allclose(ours, theirs, atol=1e-5)  # of any order and scale the same
