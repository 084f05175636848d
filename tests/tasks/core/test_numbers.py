"""Losses, errors and usual answers of tasks whose labels are numbers."""

import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch, Dataset, InputSpec
from fedsim.tasks.core.numbers import NumbersConfig, refuses_numbers
from fedsim.tasks.regression import Regression


def data(labels: torch.Tensor) -> Dataset:
    batch = Batch(torch.zeros(len(labels), 3), labels)
    return Dataset(batch, batch, InputSpec((3,), labels[0].numel(), (0.0,) * 3, (1.0,) * 3), ("a",))


def task(**settings: object) -> Regression:
    return Regression(NumbersConfig.model_validate(settings))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, (9 + 0.25) / 2), ({"loss": "huber"}, (2.5 + 0.125) / 2), ({"loss": "absolute"}, (3 + 0.5) / 2)],
)
def test_errors_are_counted_as_the_settings_say(settings: dict[str, str], expected: float) -> None:
    outputs, labels = torch.tensor([[3.0, 0.5]]), torch.tensor([[0.0, 0.0]])
    assert task(**settings).losses(outputs, labels).tolist() == pytest.approx([expected])


def test_one_number_an_example_needs_no_dimension_of_its_own() -> None:
    assert task().losses(torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0])).tolist() == [0.0, 4.0]


def test_outputs_without_a_dimension_of_their_own_are_compared_one_by_one() -> None:
    outputs, column = torch.tensor([1.0, 3.0, 6.0]), torch.tensor([[1.0], [1.0], [2.0]])
    assert task().losses(outputs, column).tolist() == [0.0, 4.0, 16.0]
    assert task().losses(outputs, column[:, 0]).tolist() == [0.0, 4.0, 16.0]
    near = data(torch.tensor([0.0, 4.0]))  # standard deviation 2
    assert task().right(torch.tensor([0.9, 1.0]), near.train.labels, near).tolist() == [1.0, 0.0]


def test_two_outputs_are_not_broadcast_against_one_label() -> None:
    with pytest.raises(FedsimError, match=r"shape \(2, 2\) do not match labels of shape \(2,\)"):
        task().losses(torch.zeros(2, 2), torch.zeros(2))


def test_the_error_of_the_mean_is_one() -> None:
    one = data(torch.tensor([[0.0], [2.0], [4.0]]))
    mean = float(one.train.labels.mean())
    tested = task().evaluate(lambda inputs: torch.full((len(inputs), 1), mean), one, torch.Generator())
    assert tested == {"test_rmse": pytest.approx(1.0)}
    assert task().usual_answer(one).tolist() == [[mean]]


def test_an_answer_is_right_within_half_a_standard_deviation() -> None:
    one = data(torch.tensor([[0.0], [2.0]]))  # standard deviation 1
    right = task().right(torch.tensor([[0.4], [1.4]]), one.train.labels, one)
    assert right.tolist() == [1.0, 0.0]


def test_classes_and_sets_are_no_numbers() -> None:
    assert refuses_numbers(data(torch.tensor([[0.5]]))) is None
    assert refuses_numbers(data(torch.tensor([[1]]))) == "it needs numbers as labels, and they are classes"
    assert refuses_numbers(data(torch.tensor([[1.0]]))) == "it needs numbers as labels, and they are all 0 or 1"


def test_a_granted_label_must_be_finite() -> None:
    spec = data(torch.tensor([[0.5]])).spec
    assert task().refuses_labels(torch.tensor([[torch.nan]]), spec) == "a label is not finite"
    assert task().refuses_labels(torch.tensor([[-3.0]]), spec) is None
