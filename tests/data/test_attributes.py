"""What is true of examples beside their label."""

import torch

from fedsim.data._attributes import split_at_median
from fedsim.data.breast_cancer import BreastCancerConfig, breast_cancer
from fedsim.data.digits import DigitsConfig, digits


def test_the_median_of_the_training_examples_divides_both_parts() -> None:
    own = split_at_median((torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 2.5])))
    assert (own.values, own.train.tolist(), own.test.tolist()) == (("low", "high"), [0, 0, 1], [0, 1])


def test_digits_are_even_or_odd_and_bright_or_dark_but_canaries_neither() -> None:
    data = digits(DigitsConfig(canaries=2, repetitions=(3,)))
    parity, brightness = data.attributes["parity"], data.attributes["brightness"]
    count = len(data.train) - 6
    assert len(parity.train) == len(brightness.train) == count
    assert torch.equal(parity.train, data.train.labels[:count] % 2)
    assert torch.equal(parity.test, data.test.labels % 2)
    means = data.train.inputs[:count].flatten(1).mean(1)
    assert means[brightness.train == 1].min() > means[brightness.train == 0].max()
    assert abs(int(brightness.train.sum()) - count / 2) <= 1


def test_a_table_has_an_attribute_for_each_column() -> None:
    data = breast_cancer(BreastCancerConfig())
    assert len(data.attributes) == data.train.inputs.shape[1] == 30
    texture = data.attributes["mean texture"]  # scikit-learn calls its second column so
    assert torch.equal(texture.train == 1, data.train.inputs[:, 1] > data.train.inputs[:, 1].median())
