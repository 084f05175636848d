"""How a failed attack answers: without an example that could be taken for a guess, and scored as missing."""

import math
from dataclasses import replace

import torch

from attacks.core.results import labels_or_unknown, no_guess
from tests.attacks.written import WRITTEN
from tests.federating import watched


def test_nothing_found_has_no_example_an_infinite_objective_and_a_reason() -> None:
    observation, _, _ = watched(federation={"batch_size": 3})
    nothing = no_guess(observation, "gave up: why", iterations=4, diagnostics={"rank": 2.0}, notes=("told",))
    assert nothing.inputs.shape == (0, *observation.spec.shape)
    assert nothing.labels.shape == (0,)
    assert nothing.masks is None
    assert nothing.objective == math.inf
    assert (nothing.stop_reason, nothing.iterations, nothing.notes) == ("gave up: why", 4, ("told",))
    assert nothing.diagnostics == {"rank": 2.0}
    assert not nothing.is_exact


def test_sentences_that_were_not_found_are_no_tokens() -> None:
    observation, _, _ = watched(**WRITTEN)
    assert no_guess(observation, "none").inputs.dtype == torch.long


def test_labels_are_granted_or_unknown() -> None:
    observation, _, _ = watched(federation={"batch_size": 3})
    assert labels_or_unknown(observation, 3).tolist() == observation.labels.tolist()
    assert labels_or_unknown(observation, 5).tolist() == [int(observation.labels.mode().values)] * 5
    hidden = replace(observation, labels=None, hidden_parameters=frozenset({"7.weight", "7.bias"}))
    assert labels_or_unknown(hidden, 2).tolist() == [-1, -1]
