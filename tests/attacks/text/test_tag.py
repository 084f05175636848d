"""Texts by squared and absolute differences."""

from attacks.core.matching.comparison import GeneralComparison
from tests.attacks.solving import attack_named
from tests.attacks.text.texts import KNOWN
from tests.attacks.written import WRITTEN
from tests.federating import watched


def test_granted_labels_need_no_search_for_next_words() -> None:
    observation, _, _ = watched(**WRITTEN, knows=(*KNOWN, "labels"), federation={"batch_size": 1})
    attack = attack_named("tag")
    task = attack.prepare(observation)
    assert type(task.comparison) is GeneralComparison
    assert task.places == observation.spec.shape[0]
