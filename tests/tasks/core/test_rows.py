"""Rows beside those that they are nearest to; tests/tasks/test_tabular.py scores those of a real table."""

import torch

from fedsim.core.types import Batch, Dataset, InputSpec, Reconstruction
from fedsim.tasks.core.rows import score_rows


def series(count: int) -> Dataset:
    inputs = torch.randn(count, 4, 2, generator=torch.Generator().manual_seed(0))
    batch = Batch(inputs, torch.zeros(count, 1))
    return Dataset(batch, batch, InputSpec((4, 2), 1, (0.0,) * 4, (1.0,) * 4), ("next",))


def test_series_are_rows_of_all_their_numbers_in_any_order() -> None:
    data = series(6)
    turned = torch.arange(6).roll(2)
    scored = score_rows(data.train, Reconstruction.of(data.train.inputs[turned], data.train.labels[turned]), data)
    assert scored.order is not None
    assert torch.equal(turned[scored.order], torch.arange(6))
    assert all(item.values["number_error"] == 0.0 for item in scored.items)
    assert all("categories_right" not in item.values for item in scored.items)


def test_a_missing_row_has_the_worst_values_beside_those_of_a_blind_guess() -> None:
    data = series(3)
    scored = score_rows(data.train, Reconstruction.of(data.train.inputs[:2], data.train.labels[:2]), data)
    assert [item.values["row_exact"] for item in scored.items] == [1.0, 1.0, 0.0]
    assert scored.items[2].values["number_error"] == 10.0
    assert 0.0 < scored.items[2].values["number_error_guessed"] < 10.0


def test_other_people_are_those_of_the_test_set_and_are_left_out_where_they_are_too_few() -> None:
    data = series(6)
    victims, others = data.train.select(torch.arange(2)), data.train.select(torch.arange(2, 6))
    whole = Dataset(data.train, others, data.spec, data.class_names)
    scored = score_rows(victims, Reconstruction.of(victims.inputs, victims.labels), whole)
    assert all(item.values["cells_right"] == 1.0 for item in scored.items)
    assert all(item.values["cells_of_others"] < 0.5 for item in scored.items)
    assert all(item.values["row_of_others"] == 0.0 for item in scored.items)
    few = Dataset(data.train, others.select(torch.arange(1)), data.spec, data.class_names)
    alone = score_rows(victims, Reconstruction.of(victims.inputs, victims.labels), few)
    assert all("cells_of_others" not in item.values for item in alone.items)
