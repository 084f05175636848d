"""Alignment against the closed-form gradient of a linear layer."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fedsim.core.types import Update
from fedsim.questions.membership.types import WatchedUpdate
from tests.attacks.membership.linear import CLASSES, FEATURES, Make, observed, scored, weights


@pytest.mark.paper_step("update-alignment", "cosine of update and gradient of the example")
@pytest.mark.parametrize("measure", ["cosine", "inner-product"])
def test_alignment_is_that_of_the_closed_form_gradient(attack_of: Make, measure: str) -> None:
    """Of a linear layer the gradient of one example is (softmax - label) times its inputs."""
    seen, source = observed(), torch.Generator().manual_seed(0)
    sent = [{"weight": torch.randn(CLASSES, FEATURES, generator=source)} for _ in range(2)]
    updates = tuple(
        WatchedUpdate(r, weights(20 + r), Update("delta", own, {}, 0, 0.0)) for r, own in enumerate(sent, 1)
    )
    expected = []
    for i in range(6):
        agreements = []
        for watched in updates:
            own, x = watched.received_weights, seen.candidates.inputs[i].double()
            logits = own["weight"].double() @ x + own["bias"].double()
            error = logits.softmax(0) - F.one_hot(seen.candidates.labels[i], CLASSES)
            gradient, update = torch.outer(error, x).flatten(), watched.update.tensors["weight"].double().flatten()
            norms = gradient.norm() * update.norm() if measure == "cosine" else torch.tensor(1.0)
            agreements.append(float(gradient @ update / norms))
        expected.append(sum(agreements) / 2)
    attack = attack_of("update-alignment", measure=measure)
    scores = scored(attack, replace(seen, updates=updates))
    assert scores == pytest.approx(expected, abs=1e-5)  # rounding of single precision, some hundred products each


def test_an_update_of_which_nothing_is_seen_has_no_direction(attack_of: Make) -> None:
    hidden = (WatchedUpdate(1, weights(1), Update("delta", {}, {}, 0, 0.0)),)
    reason = attack_of("update-alignment").not_applicable(replace(observed(), updates=hidden))
    assert reason is not None
