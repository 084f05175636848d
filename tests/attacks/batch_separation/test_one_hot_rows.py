"""Rows of a table by its columns of 0 and 1: all of them exactly, with their labels, or a count of what is missing."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedsim.core.errors import NotApplicable
from tests.attacks.solving import attacked
from tests.attacks.tables import COLUMNS, census, gradient_of, network
from tests.federating import watched

NAME = "one-hot-rows"
SURVEY = {"data": {"name": "affairs-survey"}, "task": "tabular"}
STEPS = {0: 4, 1: 49, 2: 45, 3: 11, 4: 3, 5: 11}  # of the questionnaire: ages in halves of a year, and so on
KNOWS = ("batch-size", "dropout-rates", "input-statistics")


def chosen(size, seed=0):
    return torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:size]


def assert_read(guess, inputs, labels):
    """Compare as sets: a gradient has no order."""
    order = torch.cdist(inputs, guess.inputs).argmin(1)
    assert len(guess.inputs) == len(inputs)
    # Flags are rounded; numbers have the errors of double precision, enlarged by condition numbers below 1e5.
    torch.testing.assert_close(guess.inputs[order], inputs, atol=1e-8, rtol=0)
    assert torch.equal(guess.labels[order], labels)
    assert guess.is_exact


@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU])
@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("size", [8, 16])
def test_it_reads_every_row_with_its_label(activation, rate, size):
    model = network(64, rate=rate, activation=activation)
    observation, inputs, labels = gradient_of(model, census(), chosen(size))
    assert_read(attacked(NAME, observation), inputs, labels)


def test_units_need_not_be_more_than_rows():
    observation, inputs, labels = gradient_of(network(9), census(), chosen(8))
    assert_read(attacked(NAME, observation), inputs, labels)


def test_fewer_units_than_rows_tell_nothing():
    observation, *_ = gradient_of(network(6), census(), chosen(8))
    guess = attacked(NAME, observation)
    assert not len(guess.inputs)
    assert "candidates" in guess.stop_reason


def test_neither_rates_nor_batch_size_need_be_known():
    observation, inputs, labels = gradient_of(network(64, rate=0.5), census(), chosen(8))
    threat = observation.threat.model_copy(update={"knows": ("input-statistics",)})
    assert_read(attacked(NAME, replace(observation, batch_size=None, threat=threat)), inputs, labels)


def test_equal_rows_count_once():
    places = torch.cat([chosen(7), chosen(1)])
    observation, inputs, _ = gradient_of(network(64), census(), places)
    guess = attacked(NAME, observation)
    assert len(guess.inputs) == 7
    assert float(torch.cdist(inputs, guess.inputs).amin(1).max()) < 1e-8


def test_rows_that_depend_on_each_other_are_missing_and_the_others_are_read():
    """Four people of two values of two categories each lie in one plane: their gradients add up to three directions."""
    people, places = census(), chosen(9)
    rows = people.rows.clone()
    for place, (first, second) in zip(places[:4].tolist(), ((0, 0), (1, 0), (0, 1), (1, 1)), strict=True):
        rows[place] = rows[places[0]]
        rows[place, :12] = torch.cat([torch.eye(7)[first], torch.eye(5)[second]])
    mixed = people._replace(rows=rows)
    observation, inputs, _ = gradient_of(network(64), mixed, places)
    guess = attacked(NAME, observation)
    order = torch.cdist(inputs[4:], guess.inputs).argmin(1)
    torch.testing.assert_close(guess.inputs[order], inputs[4:], atol=1e-8, rtol=0)
    assert len(guess.inputs) == 5
    assert "depend on each other" in guess.stop_reason


def test_wrong_public_statistics_give_no_rows():
    observation, *_ = gradient_of(network(64), census(), chosen(8))
    other = census(seed=1).spec
    assert not len(attacked(NAME, replace(observation, spec=other)).inputs)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_numbers_of_a_public_scale_stand_in_for_categories_that_a_real_table_lacks(rate):
    model = {"name": "mlp", "width": 64, "depth": 1, "dropout": rate, "bias": True}
    observation, truth, _ = watched(**SURVEY, model=model, federation={"batch_size": 8}, knows=KNOWS, client=1)
    alone = attacked(NAME, observation)
    assert not len(alone.inputs)
    assert "missing" in alone.stop_reason
    guess, batch = attacked(NAME, observation, steps=STEPS), truth.batches[0]
    order = torch.cdist(batch.inputs, guess.inputs).argmin(1)
    # The client's own rows are in single precision, of standardised values up to ten.
    torch.testing.assert_close(guess.inputs[order], batch.inputs, atol=1e-5, rtol=0)
    assert torch.equal(guess.labels[order], batch.labels)
    assert guess.is_exact


def refusal(observation, **settings):
    with pytest.raises(NotApplicable) as raised:
        attacked(NAME, observation, **settings)
    return str(raised.value)


def test_it_says_what_it_needs():
    observation, *_ = gradient_of(network(64), census(), chosen(8))
    assert "column 47, and the numbers are columns [22, 23, 24]" in refusal(observation, steps={47: 4})
    assert "column 0, and the numbers" in refusal(observation, steps={22: 4, 0: 4})
    hidden = replace(observation.spec, mean=(), std=())
    assert "not public" in refusal(replace(observation, spec=hidden))
    numbers = replace(observation.spec, mean=(0.5,) * COLUMNS, std=(0.2,) * COLUMNS)
    assert "no column is 0 or 1" in refusal(replace(observation, spec=numbers))
    behind = nn.Sequential(nn.Dropout(0.5), *network(64))
    observation, *_ = gradient_of(behind, census(), chosen(8))
    assert "no linear layer sees" in refusal(observation)
    unbiased = nn.Sequential(nn.Linear(COLUMNS, 64, bias=False), nn.GELU(), nn.Linear(64, 64), nn.Linear(64, 2))
    observation, *_ = gradient_of(unbiased, census(), chosen(8))
    assert "has no bias" in refusal(observation)
    digits, *_ = watched(model={"name": "mlp", "bias": True}, federation={"batch_size": 2})
    assert "rows of a table" in refusal(digits)
