"""Half precision against numpy's."""

import numpy as np
import torch

from tests.defenses.rounding.rounding import sent


def test_half_precision_is_that_of_numpy_and_never_infinite() -> None:
    values = torch.tensor([1.0 / 3.0, -1e-8, 65_519.0, 1e6, -1e30, 2049.0])
    rounded = sent("float16", {"w": values})["w"]
    expected = np.clip(values.numpy(), -65_504, 65_504).astype(np.float16).astype(np.float32)
    assert np.array_equal(rounded.numpy(), expected)
    assert rounded.dtype == values.dtype
