"""Examples from rows of a gradient that each come from one example: rounding, pixel range, counts, and labels."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attacks.malicious_server._isolated_units import (
    Singles,
    exceeds_rounding,
    expected_examples,
    is_in_pixel_range,
    linear,
    reconstruction,
)
from fedsim.core import seeding
from fedsim.core.types import InputSpec, Observation, Step, ThreatModel, Truth
from tests.attacks.solving import Toy


def test_what_rounding_leaves_of_a_bias_gradient_shows_no_example() -> None:
    bias = torch.tensor([1.0, -1e-3, 1e-6, 0.0])
    assert exceeds_rounding(bias, torch.float32).tolist() == [True, True, False, False]
    assert exceeds_rounding(bias, torch.float64).tolist() == [True, True, True, False]


def test_examples_outside_of_the_pixel_range_are_told_where_the_range_is_known(toy: Toy) -> None:
    observation, _ = toy(nn.Sequential(nn.Flatten(), nn.Linear(4, 4)), (1, 2, 2), 1)
    observation = replace(observation, spec=InputSpec((1, 2, 2), 4, (0.5,), (0.25,)))  # black is -2, white is 2
    examples = torch.tensor([0.0, 2.0, 2.1, -2.3]).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    assert is_in_pixel_range(examples, observation, 0.0).tolist() == [True, True, False, False]
    assert is_in_pixel_range(examples, observation, 0.05).tolist() == [True, True, True, False]
    untold = replace(observation, threat=ThreatModel(knows=()))
    assert bool(is_in_pixel_range(examples, untold, 0.0).all())


def test_examples_are_counted_by_labels_then_by_what_the_update_holds(toy: Toy) -> None:
    observation, _ = toy(nn.Sequential(nn.Flatten(), nn.Linear(4, 4)), (1, 2, 2), 3)
    assert expected_examples(observation) == 3
    without = replace(observation, labels=None, examples=8, batch_size=2, local_steps=3)
    assert expected_examples(without) == 8
    assert expected_examples(replace(without, examples=None)) == 6
    assert expected_examples(replace(without, examples=None, batch_size=None)) is None


@pytest.fixture
def batch(toy: Toy) -> tuple[Observation, Truth, Singles]:
    """Three examples with the unit that shows each, and its true coefficient."""
    with seeding.isolate_randomness(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4))
    observation, truth = toy(model, (3, 2, 2), 3)
    examples, labels = truth.batches[0].inputs, truth.batches[0].labels
    units = torch.tensor([0, 5, 2])
    outputs = observation.model[:2](examples).detach().requires_grad_()  # type: ignore[index]
    loss = observation.loss(observation.model[2:](outputs), labels)  # type: ignore[index]
    (slopes,) = torch.autograd.grad(loss, outputs)
    return observation, truth, Singles(examples, units, slopes.gather(1, units[:, None])[:, 0].double())


def test_labels_follow_from_the_slopes_of_the_units(batch: tuple[Observation, Truth, Singles]) -> None:
    observation, truth, singles = batch
    steps: list[Step] = []
    for known in (observation, replace(observation, labels=None, batch_size=None, examples=3)):
        guess = reconstruction(known, "1", singles, steps.append, diagnostics={"own": 2.0}, notes=("read",))
        assert torch.equal(guess.inputs, truth.batches[0].inputs)
        assert guess.labels is not None
        assert torch.equal(guess.labels, truth.batches[0].labels)
        assert guess.diagnostics == {"own": 2.0, "examples returned": 3.0}
        assert guess.stop_reason == "read 3 of 3 examples off the gradient"
        assert guess.objective < 1e-9  # of gradients in double precision
    assert [(step.iteration, step.iterations) for step in steps] == [(1, 1)] * 2


def test_what_was_not_found_is_missing_and_nothing_is_no_guess(batch: tuple[Observation, Truth, Singles]) -> None:
    observation, truth, singles = batch

    def guessed(places: list[int]) -> Tensor:
        chosen = singles.select(torch.tensor(places, dtype=torch.long))
        return reconstruction(observation, "1", chosen, lambda _step: None, diagnostics={}, notes=()).inputs

    assert torch.equal(guessed([2, 0]), truth.batches[0].inputs[[2, 0]])
    assert len(guessed([])) == 0


def test_weights_of_a_layer_are_read_in_double_precision() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    weight, bias = linear(model, "0")
    assert (weight.dtype, bias.dtype, weight.requires_grad) == (torch.float64, torch.float64, False)
    assert torch.equal(weight.float(), model[0].weight.detach())


def test_known_labels_are_used_once_each_whatever_the_coefficients_say(
    batch: tuple[Observation, Truth, Singles],
) -> None:
    observation, truth, singles = batch
    wrong = replace(singles, coefficients=torch.zeros(3, dtype=torch.float64))
    guess = reconstruction(observation, "1", wrong, lambda _step: None, diagnostics={}, notes=())
    assert guess.labels is not None
    assert sorted(guess.labels.tolist()) == sorted(truth.batches[0].labels.tolist())


def test_where_the_forward_pass_cannot_be_repeated_the_objective_is_the_share_that_is_missing(toy: Toy) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 4))
    observation, truth = toy(model, (3, 2, 2), 3)
    two = Singles(truth.batches[0].inputs[:2], torch.tensor([0, 1]), torch.zeros(2, dtype=torch.float64))
    guess = reconstruction(observation, "1", two, lambda _step: None, diagnostics={}, notes=())
    assert guess.objective == pytest.approx(1 / 3)
