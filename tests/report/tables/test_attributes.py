"""What updates told of attributes: rows of the table, and a sentence for each attribute."""

from types import ModuleType

from fedsim.record import AttributeRecord, Interval
from fedsim.report.tables.attributes import attribute_sentences, attributes
from fedsim.report.tables.figures import NOTHING


def own(label: str, attribute: str, share: float, low: float) -> AttributeRecord:
    return AttributeRecord(
        label=label,
        name="change-norms",
        settings={"probe": "ridge"},
        attribute=attribute,
        values=("even", "odd"),
        updates=60,
        left_out=3,
        accuracy=Interval(value=share, low=low, high=1.0, n=60),
        permuted=Interval(value=0.5, low=0.4, high=0.6, n=60),
        chance=0.5,
    )


FAILED = AttributeRecord(label="c", name="x", settings={}, attribute="topic", failure="no tensor")


def test_each_attack_is_a_row_and_a_failure_says_why(records: ModuleType) -> None:
    arms = [records.arm("quiet", []), records.arm("told", [], attributes=(own("a", "parity", 0.9, 0.8), FAILED))]
    (table,) = attributes(records.run(arms))
    first, failed = table.rows
    assert (table.arm, first.attribute, first.n, first.chance) == ("told", "parity (2 values)", "60, 3 left out", "50%")
    assert (first.accuracy.value, first.permuted.value) == ("90%", "50%")
    assert (failed.accuracy.value, failed.reason) == (NOTHING, "no tensor")


def test_a_sentence_names_the_best_attack_and_is_a_leak_only_above_guessing(records: ModuleType) -> None:
    asked = (own("a", "parity", 0.6, 0.45), own("b", "parity", 0.9, 0.8), own("d", "name", 0.6, 0.5), FAILED)
    parity, name, topic = attribute_sentences(records.run([records.arm("told", [], attributes=asked)]))
    assert parity.before == "Attack b "
    assert "90% of 60 updates" in parity.finding
    assert "guessing 50%, with permuted values 50%" in parity.after
    assert (parity.recovered, name.recovered, topic.recovered) == (True, False, False)
    assert "No attack on the attribute topic" in topic.finding
