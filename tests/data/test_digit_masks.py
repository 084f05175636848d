"""Digits with a class for every pixel."""

import torch

from fedsim.data.digit_masks import DigitMasksConfig, digit_masks
from fedsim.data.digits import DigitsConfig, digits


def test_ink_has_the_class_of_its_digit() -> None:
    data, plain = digit_masks(DigitMasksConfig()), digits(DigitsConfig())
    assert (data.task, data.spec.classes, data.train.labels.dtype) == ("segmentation", 3, torch.int64)
    masks = data.train.labels
    assert masks.shape == (len(plain.train), 8, 8)
    assert torch.equal(masks.flatten(1).amax(1), 1 + plain.train.labels % 2)
    darkest = plain.train.inputs[:, 0].flatten(1).argmax(1)
    assert bool((masks.flatten(1).gather(1, darkest[:, None]) > 0).all())
    assert bool((masks[:, 0, 0] == 0).all())
