"""The judge is exact at the truth, and holds tensors out under noise."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attacks.combined._judge import _INPUT_RATE, _MASK_RATE, GuessJudge, _fill_missing, _is_among, unite
from attacks.core.batches import OrderedGuess
from attacks.core.gradient_distance import gradient_distance
from fedsim.core import registry, seeding
from fedsim.core.types import MethodDescription
from fedsim.core.types.effects import Sparsified
from tests.attacks.solving import sending, with_noise
from tests.federating import watched

TRUTH = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
LABELS = torch.tensor([0, 1, 1])


def test_under_noise_the_judge_holds_tensors_out_and_keeps_a_good_guess() -> None:
    observation, truth, _ = watched(model={"name": "mlp", "width": 64, "depth": 3, "dropout": 0.25})
    noisy = with_noise(observation, 1e-2)
    judge = GuessJudge(noisy, noisy.labels, is_noisy=True, iterations=100)
    assert judge.held_out == ("7.weight",)
    generator = torch.Generator().manual_seed(0)
    true = judge.judge(truth.batches[0].inputs, truth.masks[0], generator)
    held = sending(noisy, {"7.weight": noisy.update.tensors["7.weight"]})
    assert true.distance == gradient_distance(held, true.inputs, noisy.labels, true.masks)
    wrong = judge.judge(torch.zeros_like(truth.batches[0].inputs), None, generator)
    assert true.distance < 0.01 * wrong.distance
    blurred = judge.judge(truth.batches[0].inputs + 0.3, None, generator)
    sharp = judge.judge(truth.batches[0].inputs, None, generator)
    assert sharp.distance < blurred.distance


def test_the_judge_is_exact_at_the_truth() -> None:
    observation, truth, _ = watched(federation={"batch_size": 2})
    judge = GuessJudge(observation, observation.labels, is_noisy=False, iterations=10)
    assert judge.held_out == ()
    at_truth = judge.judge(truth.batches[0].inputs, truth.masks[0], torch.Generator().manual_seed(0))
    assert at_truth.distance < 1e-6


def test_settling_moves_the_masks_alone_and_polishing_the_inputs_too() -> None:
    model = {"name": "mlp", "width": 32, "depth": 2, "dropout": 0.25}
    observation, truth, _ = watched(model=model, federation={"batch_size": 2})
    judge = GuessJudge(observation, observation.labels, is_noisy=False, iterations=20)
    generator = torch.Generator().manual_seed(0)
    begun = judge.judge(0.9 * truth.batches[0].inputs, None, generator)
    settled, polished = judge.settle(begun, generator), judge.polish(begun, generator)
    assert torch.equal(settled.inputs, begun.inputs)
    assert not torch.equal(settled.masks[0], begun.masks[0])
    assert 0 < float((polished.inputs - begun.inputs).abs().max()) < 20 * _INPUT_RATE  # that far in as many steps
    assert max(settled.distance, polished.distance) < begun.distance


@pytest.mark.parametrize("size", [1, 2])
def test_masks_are_read_from_the_update_of_one_example_alone(size: int) -> None:
    model = {"name": "mlp", "width": 32, "depth": 2, "dropout": 0.25}
    observation, truth, _ = watched(model=model, federation={"batch_size": size})
    judge = GuessJudge(observation, observation.labels, is_noisy=False, iterations=1)
    guess = judge.judge(-truth.batches[0].inputs, None, torch.Generator().manual_seed(0))
    assert torch.equal(guess.masks[0], truth.masks[0][0]) is (size == 1)


@pytest.mark.parametrize(("knows", "begun"), [(("batch-size", "dropout-rates"), 0.75), (("batch-size",), 1.0)])
def test_a_search_for_masks_begins_at_their_mean_where_rates_are_known(knows: tuple[str, ...], begun: float) -> None:
    model = {"name": "mlp", "width": 32, "depth": 2, "dropout": 0.25}
    observation, truth, _ = watched(model=model, federation={"batch_size": 2}, knows=knows)
    judge = GuessJudge(observation, truth.batches[0].labels, is_noisy=False, iterations=1)
    guess = judge.judge(truth.batches[0].inputs, None, torch.Generator().manual_seed(0))
    for mask in guess.masks:
        assert float((mask - begun).abs().max()) < 2 * _MASK_RATE  # one step


def test_where_only_a_part_is_sent_nothing_else_is_compared() -> None:
    observation, truth, _ = watched(model={"name": "mlp", "width": 32, "depth": 2, "dropout": 0.0})
    pruned = {name: t * (t.abs() > t.abs().flatten().median()) for name, t in observation.update.tensors.items()}
    observation = sending(observation, pruned)
    told = replace(observation, known_methods=(MethodDescription("pruning", (Sparsified(0.5),)),))
    method = registry.get("attack", "inverting-gradients")
    attack = method.make(method.config.model_validate({"max_iterations": 300, "priors": []}))
    naive, informed = (attack(seen, seeding.generator(1, "attack")) for seen in (observation, told))
    errors = [float((guess.inputs - truth.batches[0].inputs).square().mean()) for guess in (naive, informed)]
    assert informed.objective < 0.1 * naive.objective
    assert errors[1] < errors[0]


def distance(inputs: Tensor) -> float:
    return float((inputs - TRUTH).norm())


def batch(*found: int, wrong: int | None = None) -> OrderedGuess:
    inputs, are_found = torch.zeros(3, 2), torch.zeros(3, dtype=torch.bool)
    for example in found:
        inputs[example], are_found[example] = TRUTH[example], True
    if wrong is not None:
        inputs[wrong], are_found[wrong] = torch.tensor([-5.0, 3.0]), True
    return OrderedGuess(inputs, None, are_found)


def test_what_one_found_fills_the_places_where_another_found_nothing() -> None:
    found = unite([batch(0, 1), batch(2)], LABELS, distance, swaps=False)
    assert torch.equal(found.batch.inputs, TRUTH)
    assert found.batch.are_found.tolist() == [True] * 3
    assert found.sources == (0, 1)


def test_a_wrong_example_is_replaced_only_where_swaps_are_tried() -> None:
    guesses = [batch(0, 1, wrong=2), batch(2, wrong=1)]
    assert not torch.equal(unite(guesses, LABELS, distance, swaps=False).batch.inputs, TRUTH)
    assert torch.equal(unite(guesses, LABELS, distance, swaps=True).batch.inputs, TRUTH)


def test_what_does_not_lower_the_distance_is_left_out() -> None:
    found = unite([batch(0, 1, 2), batch(wrong=1)], LABELS, distance, swaps=True)
    assert torch.equal(found.batch.inputs, TRUTH)
    assert found.sources == (0,)


def test_an_example_fills_no_place_of_another_label() -> None:
    of_class_one = OrderedGuess(TRUTH[[1, 0, 2]], None, torch.tensor([False, True, False]))
    assert _fill_missing(batch(1, 2), of_class_one, LABELS) is None  # what is empty is of class 0
    assert _fill_missing(batch(0, 2), of_class_one, LABELS) is None  # and this example is there already


def test_an_example_in_an_empty_place_is_found_there() -> None:
    found = unite([batch(0), batch(1, wrong=2)], LABELS, distance, swaps=True)  # the other guess as a whole is worse
    assert torch.equal(found.batch.inputs[:2], TRUTH[:2])
    assert found.batch.are_found.tolist() == [True, True, False]


def test_two_examples_are_the_same_within_a_share_of_their_size() -> None:
    large, small = torch.tensor([100.0, 0.0]), torch.tensor([0.01, 0.0])
    assert _is_among(large, large[None] + 0.5)
    assert not _is_among(large, large[None] + 1.5)
    assert not _is_among(small, 2.0 * small[None])
