"""Texts by squared and absolute differences."""

from typing import Any

from attacks.core.matching.comparison import GeneralComparison
from attacks.text.base import TextMatching
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
