"""Relaxed rows of a table: what logits stand for, and whether the gradient leads to the true ones."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attacks.core.matching.descent import VictimGroup
from attacks.gradient_matching.tabular_relaxation import RelaxedTable, TabularRelaxation, TabularRelaxationConfig
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.table_columns import likeliest_values
from fedsim.core.types import InputSpec, Observation, Reconstruction, Step
from fedsim.metrics.image import match
from fedsim.metrics.table import TOLERANCE, columns_of
from tests.attacks.solving import attacked, without_information
from tests.attacks.tables import Census, census, gradient_of, network
from tests.federating import watched

Observed = tuple[Observation, Tensor, Tensor]
NAME = "tabular-relaxation"
SHARE = math.sqrt(0.25 * 0.75)
# a number, a category of three values, a flag that stands alone, two numbers
SPEC = InputSpec((7,), 2, (0.4, 0.25, 0.25, 0.5, 0.25, 0.5, 0.5), (0.1, SHARE, SHARE, 0.5, SHARE, 0.2, 0.1))
TABLE = RelaxedTable.of(SPEC)


@pytest.fixture(scope="module")
def four() -> Observed:
    """The gradient of four people, their rows and labels, which are known."""
    observation, inputs, labels = gradient_of(network(64), census(), torch.arange(4))
    return replace(observation, labels=labels), inputs, labels


def logits_of(people: Census, inputs: Tensor) -> Tensor:
    """Logits of given rows: their softmax is 0 or 1 up to exp(-60), and their sigmoid is each number."""
    columns = columns_of(people.rows, InputSpec(people.spec.shape, 2, (0.0,), (1.0,)))
    plain = inputs * people.std + people.mean
    logits = plain.clamp(1e-9, 1 - 1e-9).logit()
    flags = [column for category in columns.categories for column in category]
    logits[:, flags] = 60.0 * plain[:, flags].round()
    return logits


def share_read(guess: Reconstruction, inputs: Tensor) -> float:
    """The share of cells that are right, each guess beside the row that it is nearest to."""
    columns, order = (
        columns_of((census().rows - census().mean) / census().std, census().spec),
        match(guess.inputs, inputs),
    )
    rows = guess.inputs[order]
    right = [rows[:, c].argmax(1) == inputs[:, c].argmax(1) for c in map(list, columns.categories)]
    right += [(rows[:, n] - inputs[:, n]).abs() <= TOLERANCE for n in columns.numbers]
    return float(torch.stack(right).double().mean())


@pytest.mark.paper_step("tabular-relaxation", "softmax per category, sigmoid per number")
def test_a_category_is_a_softmax_and_all_else_a_sigmoid_in_normalised_units() -> None:
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    plain = TABLE.rows(logits) * torch.tensor(TABLE.std) + torch.tensor(TABLE.mean)
    for column in (0, 4, 5, 6):
        torch.testing.assert_close(plain[..., column], 1 / (1 + (-logits[..., column]).exp()))
    powers = logits[..., 1:4].exp()
    torch.testing.assert_close(plain[..., 1:4], powers / powers.sum(-1, keepdim=True))


@pytest.mark.paper_step("tabular-relaxation", "entropy of the categories")
def test_what_is_returned_has_one_value_a_category_and_the_entropy_says_how_sure_it_was() -> None:
    mean, std = torch.tensor(TABLE.mean), torch.tensor(TABLE.std)
    plain = torch.tensor([[0.3, 0.2, 0.7, 0.1, 0.4, 0.5, 0.6], [0.1, 0.0, 0.0, 1.0, 1.0, 0.2, 0.9]])
    decided = likeliest_values((plain - mean) / std, SPEC) * std + mean
    expected = torch.tensor([[0.3, 0.0, 1.0, 0.0, 0.0, 0.5, 0.6], [0.1, 0.0, 0.0, 1.0, 1.0, 0.2, 0.9]])
    torch.testing.assert_close(decided, expected)
    of_three = -sum(p * math.log(p) for p in (0.2, 0.7, 0.1)) / math.log(3)
    of_two = -sum(p * math.log(p) for p in (0.4, 0.6)) / math.log(2)
    entropy = TABLE.entropy((plain - mean) / std)
    # Shares of 0 and 1 differ from them by the rounding of single precision, which normalised columns enlarge.
    torch.testing.assert_close(entropy, torch.tensor([[of_three, of_two], [0.0, 0.0]]), atol=1e-5, rtol=1e-4)


def test_the_truth_has_the_lowest_objective(four: Observed) -> None:
    observation, inputs, labels = four
    table = RelaxedTable.of(observation.spec)
    logits = logits_of(census(), inputs)
    torch.testing.assert_close(table.rows(logits), inputs, atol=1e-6, rtol=0)  # numbers are kept 1e-9 off 0 and 1
    victims = VictimGroup([observation], [labels], [seeding.generator(0, "attack")], [lambda _step: None])
    attack = TabularRelaxation(TabularRelaxationConfig())
    descent = attack.descent(victims, attack.plan(victims))
    gradients = descent.comparison.gradients(table.rows(logits)[None], (), labels[None], [0])
    assert float(descent.search.distance(gradients).detach()) < 1e-6


def test_four_people_come_back(four: Observed) -> None:
    observation, inputs, labels = four
    steps = list[Step]()
    guess = attacked(NAME, observation, steps.append, max_iterations=300, restarts=2)
    assert share_read(guess, inputs) == 1.0
    assert torch.equal(guess.labels, labels)
    assert guess.diagnostics["starts"] == 2
    assert 0.0 <= guess.diagnostics["mean entropy of categories"] < 0.05
    assert {tuple(step.guess.shape) for step in steps} == {tuple(inputs.shape)}


def test_a_gradient_that_says_nothing_gives_other_people(four: Observed) -> None:
    observation, inputs, _ = four
    guess = attacked(NAME, without_information(observation), max_iterations=100, restarts=2)
    assert share_read(guess, inputs) < 0.7


def test_a_budget_is_shared_by_a_few_starts() -> None:
    settings = TabularRelaxationConfig.model_validate(TabularRelaxation.settings_for_budget(2000))
    assert settings.max_iterations * settings.restarts == 2000
    assert TabularRelaxationConfig.model_validate(TabularRelaxation.settings_for_budget(1)).max_iterations == 1


def test_what_is_no_table_with_categories_is_refused(four: Observed) -> None:
    observation, *_ = four
    numbers = replace(
        observation.spec, mean=(0.5,) * len(observation.spec.mean), std=(0.2,) * len(observation.spec.std)
    )
    with pytest.raises(NotApplicable, match="no column is 0 or 1 in every row"):
        attacked(NAME, replace(observation, spec=numbers))
    digits, *_ = watched()
    with pytest.raises(NotApplicable, match="it searches rows of a table"):
        attacked(NAME, digits)
