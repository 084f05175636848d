"""Texts by squared and absolute differences."""

from typing import Any

import pytest
import torch

from attacks.core.matching.comparison import GeneralComparison
from attacks.text.base import TextMatching
from fedsim.core import registry
from fedsim.core.errors import NotApplicable
from fedsim.core.types import Observation, Truth
from tests.attacks.solving import Named, Watched
from tests.attacks.text.texts import KNOWN


def test_granted_labels_need_no_search_for_next_words(
    watched: Watched, written_text: dict[str, Any], attack_named: Named
) -> None:
    observation, _, _ = watched(**written_text, knows=(*KNOWN, "labels"), federation={"batch_size": 1})
    attack = attack_named("tag")
    assert isinstance(attack, TextMatching)
    task = attack.prepare(observation)
    assert type(task.comparison) is GeneralComparison
    assert task.places == observation.spec.shape[0]


def test_masked_places_are_refused_in_a_sentence(masked_client: tuple[Observation, Truth]) -> None:
    tag = registry.get("attack", "tag")
    with pytest.raises(NotApplicable, match="draws something in every step, as masked places"):
        tag.make(tag.config())(masked_client[0], torch.Generator())
