"""Digits with a set of traits each."""

from fedsim.core import registry
from fedsim.data.digit_traits import DigitTraitsConfig, digit_traits
from fedsim.data.digits import DigitsConfig, digits


def test_each_digit_has_the_traits_of_its_number() -> None:
    data, plain = digit_traits(DigitTraitsConfig()), digits(DigitsConfig())
    assert registry.get("task", data.task).make.label_kind == "set"  # type: ignore[attr-defined]
    assert data.class_names == ("even", "prime", "square", "above four", "loop")
    assert data.spec.classes == data.train.labels.shape[1] == 5
    assert (data.train.inputs == plain.train.inputs).all()
    assert (data.train.labels[:, 0] == (plain.train.labels % 2 == 0)).all()
    assert (data.test.labels[:, 3] == (plain.test.labels > 4)).all()
