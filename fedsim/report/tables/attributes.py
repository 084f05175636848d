"""What updates told of an attribute: a table for people, and a sentence for each attribute of an arm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fedsim.record import ArmRecord, AttributeRecord, RunRecord
from fedsim.report.tables.figures import Estimate, estimate
from fedsim.report.verdict import Sentence, bounds


@dataclass(frozen=True)
class Asked:
    """One attack on an attribute in one arm."""

    attack: str
    settings: str
    attribute: str
    n: str
    accuracy: Estimate
    permuted: Estimate
    chance: str
    reason: str


@dataclass(frozen=True)
class Attributes:
    """All attacks on attributes of one arm."""

    arm: str
    rows: tuple[Asked, ...]


def attributes(record: RunRecord) -> list[Attributes]:
    """Return the table of attacks on attributes by arms, of the arms that have any."""
    return [Attributes(arm.name, tuple(map(asked, arm.attributes))) for arm in record.arms if arm.attributes]


def attribute_sentences(record: RunRecord) -> list[Sentence]:
    """Return a sentence for each attribute that was asked for in an arm, with the attack that reads it best."""
    return [sentence for arm in record.arms for sentence in _sentences(arm)]


def _sentences(arm: ArmRecord) -> Iterator[Sentence]:
    for name in dict.fromkeys(own.attribute for own in arm.attributes):
        tried = [
            (own.accuracy.value, own) for own in arm.attributes if own.attribute == name and own.accuracy is not None
        ]
        if not tried:
            yield Sentence(arm.name, "", f"No attack on the attribute {name} gave a result", ".", False)
            continue
        share, best = max(tried, key=lambda pair: pair[0])
        assert best.accuracy is not None
        low = best.accuracy.low
        interval = bounds(best.accuracy, 100, 0)
        yield Sentence(
            arm.name,
            f"Attack {best.label} ",
            f"reads the attribute {name} of {share:.0%} of {best.updates} updates",
            f" ({f'{interval}%; ' if interval else ''}guessing {best.chance:.0%}{_control(best)}).",
            low is not None and low > best.chance,
        )


def _control(own: AttributeRecord) -> str:
    return "" if own.permuted is None else f", with permuted values {own.permuted.value:.0%}"


def asked(own: AttributeRecord) -> Asked:
    """Return an attack on an attribute as a row of a table."""
    return Asked(
        attack=own.label,
        settings=", ".join([own.name, *(f"{key} = {value}" for key, value in own.settings.items())]),
        attribute=f"{own.attribute} ({len(own.values)} values)",
        n=f"{own.updates:,}" + (f", {own.left_out:,} left out" if own.left_out else ""),
        accuracy=estimate(own.accuracy, 100, 0, "%"),
        permuted=estimate(own.permuted, 100, 0, "%"),
        chance=f"{own.chance:.0%}",
        reason=own.failure or "",
    )
