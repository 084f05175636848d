"""Digits with labels for three heads."""

import torch

from fedsim.core.types import slice_heads
from fedsim.data.digit_heads import DigitHeadsConfig, digit_heads
from fedsim.data.digits import DigitsConfig, digits


def test_each_digit_has_the_labels_of_each_head() -> None:
    data, plain = digit_heads(DigitHeadsConfig()), digits(DigitsConfig())
    assert [(head.name, labels, outputs) for head, labels, outputs in slice_heads(data.spec.heads)] == [
        ("number", slice(0, 1), slice(0, 10)),
        ("traits", slice(1, 4), slice(10, 13)),
        ("ink", slice(4, 6), slice(13, 15)),
    ]
    labels = data.train.labels
    assert torch.equal(labels[:, 0].long(), plain.train.labels)
    assert torch.equal(labels[:, 1] == 1, plain.train.labels % 2 == 0)
    pixels = data.train.inputs * data.spec.std[0] + data.spec.mean[0]
    torch.testing.assert_close(labels[:, 4], pixels[:, 0, :4].mean((1, 2)))
    assert data.spec.classes == 15
