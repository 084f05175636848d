"""The guess beside the truth: perfect ones, missing ones, masks, and what the record says about a failure."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.core.types import Reconstruction, Truth, WireEntry
from fedsim.federation.client import local_training
from fedsim.scenario import world as worlds
from fedsim.threat.scoring import score
from fedsim.threat.victim import Victim
from tests.experiment.running import Build


@pytest.fixture
def victim(scenario: Build) -> Callable[..., Victim]:
    def build(**tables: Any) -> Victim:
        world = worlds.build(scenario(**{"federation": {"batch_size": 3}, **tables}))
        received = world.models.first_weights
        update, truth = local_training(world, received, 1, 0)
        return Victim(world, WireEntry(1, 0, received, update), truth)

    return build


def guess(truth: Truth, **changes: Any) -> Reconstruction:
    batch = truth.original_batches[0]
    return replace(Reconstruction(batch.inputs, batch.labels, None, 0.1, 5, 4, ((1, 0.1),), "done"), **changes)


def test_the_truth_in_another_order_is_perfect_and_is_shown_beside_its_original(victim: Callable[..., Victim]) -> None:
    own = victim()
    order = torch.tensor([2, 0, 1])
    batch = own.truth.original_batches[0]
    record, arrays = score(own, guess(own.truth, inputs=batch.inputs[order], labels=batch.labels[order]))
    assert [item.values["psnr"] for item in record.scores] == [160.0] * 3
    assert record.values["label_accuracy"] == 1.0
    assert np.allclose(arrays["originals"], arrays["guesses"])
    assert (record.explanations, record.failure) == ((), None)
    assert (record.round, record.client, record.iterations, record.stopped) == (1, 0, 5, "done")
    assert record.objective_at_truth == pytest.approx(0.0, abs=1e-9)  # a sum of squares in single precision


def test_examples_without_a_guess_are_missing_and_the_failure_is_diagnosed(victim: Callable[..., Victim]) -> None:
    own = victim()
    batch = own.truth.original_batches[0]
    found = guess(own.truth, inputs=batch.inputs[:1], labels=batch.labels[:1], objective=9.0)
    record, _ = score(own, found)
    assert [item.is_missing for item in record.scores].count(True) == 2
    assert "it guessed 1 of 3 examples" in record.notes[-1]
    assert record.explanations, "a search that did not reach the truth's objective says so"


def test_as_many_guesses_as_examples_are_scored_and_one_more_is_refused(victim: Callable[..., Victim]) -> None:
    """Of many public pictures as guesses, the truth would choose the nearest."""
    own = victim()
    batch = own.truth.original_batches[0]
    record, _ = score(own, guess(own.truth))
    assert len(record.scores) == 3
    four = torch.tensor([0, 1, 2, 2])
    with pytest.raises(FedsimError, match="the answer has 4 examples, expected at most 3"):
        score(own, guess(own.truth, inputs=batch.inputs[four], labels=batch.labels[four]))


def test_of_several_steps_each_example_counts_once_a_step(victim: Callable[..., Victim]) -> None:
    own = victim(federation={"batch_size": 3, "algorithm": "fedavg", "local_steps": 2})
    inputs = torch.cat([batch.inputs for batch in own.truth.original_batches])
    labels = torch.cat([batch.labels for batch in own.truth.original_batches])
    assert len(inputs) == 6
    score(own, guess(own.truth, inputs=inputs, labels=labels))
    with pytest.raises(FedsimError, match="7 examples, expected at most 6"):
        score(own, guess(own.truth, inputs=torch.cat([inputs, inputs[:1]]), labels=torch.cat([labels, labels[:1]])))


def test_masks_are_scored_where_a_step_has_one_and_the_attack_guessed_them(victim: Callable[..., Victim]) -> None:
    own = victim()
    record, _ = score(own, guess(own.truth, masks=own.truth.masks[0]))
    assert [mask.accuracy for mask in record.masks] == [1.0] * 2
    assert record.values["mask_accuracy"] == 1.0
    wrong = tuple(1.0 - (mask > 0).float() for mask in own.truth.masks[0])
    inverted, _ = score(own, guess(own.truth, masks=wrong))
    assert inverted.values["mask_accuracy"] == 0.0
    none, _ = score(own, guess(own.truth))
    assert none.masks == ()
    assert "mask_accuracy" not in none.values


def test_masks_of_several_steps_are_not_scored(victim: Callable[..., Victim]) -> None:
    own = victim(federation={"batch_size": 3, "algorithm": "fedavg", "local_steps": 2})
    examples = own.examples
    found = guess(own.truth, inputs=examples.inputs, labels=examples.labels, masks=own.truth.masks[0])
    record, _ = score(own, found)
    assert record.masks == ()
    assert record.objective_at_truth is None


def test_a_component_adds_its_own_figures(victim: Callable[..., Victim]) -> None:
    own = victim(model={"dropout": 0.0}, components=[{"name": "codebook", "at": ["1"]}])
    record, _ = score(own, guess(own.truth))
    expected: dict[str, float] = {}
    for part in own.world.stack.components:
        expected |= part.scores(own.model, own.truth, guess(own.truth))
    assert {name: record.extras[name] for name in expected} == expected
