"""How a failed attack answers: without an example that could be taken for a guess, and scored as missing."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from attacks.core.results import labels_or_unknown, no_guess
from fedsim.core.types import WireEntry
from fedsim.threat.scoring import score
from fedsim.threat.victim import Victim
from tests.attacks.solving import Named, Watched


def test_nothing_found_has_no_example_an_infinite_objective_and_a_reason(watched: Watched) -> None:
    observation, _, _ = watched(federation={"batch_size": 3})
    nothing = no_guess(observation, "gave up: why", iterations=4, diagnostics={"rank": 2.0}, notes=("told",))
    assert nothing.inputs.shape == (0, *observation.spec.shape)
    assert nothing.labels.shape == (0,)
    assert nothing.masks is None
    assert nothing.objective == math.inf
    assert (nothing.stop_reason, nothing.iterations, nothing.notes) == ("gave up: why", 4, ("told",))
    assert nothing.diagnostics == {"rank": 2.0}
    assert not nothing.is_exact


def test_sentences_that_were_not_found_are_no_tokens(watched: Watched, written_text: dict[str, Any]) -> None:
    observation, _, _ = watched(**written_text)
    assert no_guess(observation, "none").inputs.dtype == torch.long


def test_what_was_not_found_gets_the_worst_scores(watched: Watched) -> None:
    observation, truth, world = watched(federation={"batch_size": 2})
    entry = WireEntry(1, 0, world.models.first_weights, observation.update)
    record = score(Victim(world, entry, truth), no_guess(observation, "gave up: why")).record
    assert [item.values["psnr"] for item in record.scores] == [0.0, 0.0]
    assert [item.guessed_label for item in record.scores] == [None, None]
    assert record.failure is None
    assert record.stopped == "gave up: why"
    assert "it guessed 0 of 2 examples" in record.notes[-1]


@pytest.mark.parametrize("attack", ["inverting-gradients", "dropout-inversion", "gradinversion", "dlg"])
def test_a_search_without_a_number_returns_nothing(watched: Watched, attack_named: Named, attack: str) -> None:
    observation, _, _ = watched(federation={"batch_size": 2})
    broken = replace(observation, loss=lambda outputs, _labels: outputs.sum() * torch.nan)
    nothing = attack_named(attack, max_iterations=3)(broken, torch.Generator().manual_seed(0))
    assert nothing.inputs.shape == (0, *observation.spec.shape)
    assert len(nothing.labels) == 0
    assert nothing.stop_reason == "objective is not a number"


def test_labels_are_granted_or_unknown(watched: Watched) -> None:
    observation, _, _ = watched(federation={"batch_size": 3})
    assert observation.labels is not None
    assert labels_or_unknown(observation, 3).tolist() == observation.labels.tolist()
    assert labels_or_unknown(observation, 5).tolist() == [int(observation.labels.mode().values)] * 5
    hidden = replace(observation, labels=None, hidden_parameters=frozenset({"7.weight", "7.bias"}))
    assert labels_or_unknown(hidden, 2).tolist() == [-1, -1]
