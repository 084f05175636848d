"""Tables that only some runs have, and words that every grant needs."""

from typing import get_args

from fedsim.core import registry
from fedsim.core.types import Knowledge
from fedsim.metrics.statistics import summarise
from fedsim.metrics.success import Rule
from fedsim.record import AttackRecord, ItemScore, VictimRecord
from fedsim.report.sweep.threat import REALISM
from fedsim.report.tables.own_tables import counts_of
from fedsim.report.verdict import knowledge


def attack(items: list[ItemScore]) -> AttackRecord:
    victims = [VictimRecord(round=1, client=client, scores=(item,)) for client, item in enumerate(items)]
    summary = summarise(victims, Rule.of("psnr", 20.0), 1)
    return AttackRecord(
        label="a", name="a", knows=get_args(Knowledge), settings={}, victims=tuple(victims), summary=summary
    )


def item(**more: float) -> ItemScore:
    return ItemScore(index=0, values={"mse": 0.1, "psnr": 10.0, "ssim": 0.0, **more}, label=0, guessed_label=0)


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


def test_labels_are_counted_by_the_share_of_the_smaller_one_and_the_table_is_absent_without_composites() -> None:
    shares = [(0.01, False), (0.05, True), (0.1, True), (0.3, False), (0.5, True)]
    seen = attack([item(psnr_trained=90, minor_share=share, minor_found=found) for share, found in shares])
    assert seen.summary is not None
    assert seen.summary.metrics["composites.minor_found"].value == 0.6
    assert list(counts_of(seen, registry.every_metric()["minor_found"])) == ["1 of 2", "1 of 1", "1 of 2"]
    plain = attack([item()])
    assert plain.summary is not None
    assert not [name for name in plain.summary.metrics if name.startswith("composites")]
