"""Whole sentences explain a gradient, and other losses do not."""

from dataclasses import replace

import pytest
import torch

from attacks.text._sentences import complete, has_cross_entropy
from attacks.text._words import words_of
from fedsim.core.errors import NotApplicable
from fedsim.core.types import Config
from fedsim.tasks.tagging import Tagging
from tests.attacks.solving import attack_named
from tests.attacks.text.texts import KNOWN, in_order
from tests.attacks.written import WRITTEN
from tests.federating import watched


def test_a_completed_batch_explains_the_gradient_and_names_what_follows() -> None:
    observation, truth, _ = watched(**WRITTEN, knows=KNOWN, federation={"clients": 2, "batch_size": 2})
    sentences, labels = in_order(truth)
    done = complete(observation, sentences, words_of(observation), ())
    lengths = (sentences >= 0).sum(1)
    assert done.distance < 1e-9
    assert done.last.tolist() == labels[torch.arange(2), lengths - 1].tolist()
    assert complete(observation, sentences.flip(1).sort(1).values, words_of(observation), ()).distance > 1e-3


def test_other_losses_and_unknown_labels_are_refused() -> None:
    observation, _, _ = watched(**WRITTEN, knows=KNOWN, federation={"batch_size": 1})
    assert has_cross_entropy(observation)
    other = replace(observation, loss=lambda outputs, labels: 2.0 * observation.loss(outputs, labels))
    with pytest.raises(NotApplicable, match="not the mean cross-entropy of next words"):
        attack_named("tag")(other, torch.Generator())
    classes = replace(observation, spec=replace(observation.spec, classes=3), task=Tagging(Config()))
    with pytest.raises(NotApplicable, match="the labels are not next words"):
        attack_named("lamp")(classes, torch.Generator())
