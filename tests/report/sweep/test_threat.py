"""Every grant has words for the report."""

from typing import get_args

from fedsim.core.types import Knowledge
from fedsim.report.sweep.threat import REALISM
from fedsim.report.verdict import knowledge
from tests.report.attacked import attack, item

WORDS: dict[Knowledge, str] = {  # that only the sentence of this grant has
    "labels": "labels",
    "masks": "masks",
    "batch-size": "batch size",
    "dropout-rates": "rates",
    "input-statistics": "statistics",
    "defenses": "defenses",
    "components": "components in use",
    "draws": "components and task drew",
    "given": "beside the examples",
    "earlier-rounds": "rounds before",
}


def test_every_grant_has_words_for_the_report() -> None:
    assert WORDS.keys() == REALISM.keys() == set(get_args(Knowledge))
    for grant in WORDS:
        said = knowledge(attack([item()]).model_copy(update={"knows": (grant,)}))
        assert [other for other, words in WORDS.items() if words in said] == [grant]
    assert all(words in knowledge(attack([item()])) for words in WORDS.values())
    assert knowledge(attack([item()]).model_copy(update={"knows": ()})) == "nothing beyond the model and the update"
