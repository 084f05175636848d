"""Attacks that are stopped after a budget of processor seconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from benchmarks._passes import timed
from benchmarks._rows import Row
from benchmarks._victims import Victim
from fedsim.core import seeding
from fedsim.core.hooks import Attack
from fedsim.core.time_budget import OUT_OF_TIME
from fedsim.core.types import Reconstruction
from fedsim.judgement.evidence import reach
from fedsim.metrics.image import score_items
from fedsim.metrics.missing import complete
from fedsim.metrics.success import Rule
from fedsim.questions.attacks.ceiling import ceiling_of
from fedsim.record import ItemScore
from fedsim.threat import victim as observed

EXACT = "updates with every image exact"
"""The name of the row that says how many updates came back exactly."""
_SECONDS = 60.0  # of the ideal attacker, who is asked for an interval where they do not suffice


class Outcome(NamedTuple):
    """What an attack came to within a budget.

    Attributes:
        worst: PSNR of the worst image in dB.
        seconds: of the processor.
        guess: the best one within the budget.
        is_exact: whether every image came back exactly.
        labels: share of the images whose label is right.
    """

    worst: float
    seconds: float
    guess: Reconstruction
    is_exact: bool
    labels: float

    @property
    def is_stopped(self) -> bool:
        """Whether the budget ended the attack."""
        return self.guess.stop_reason == OUT_OF_TIME


def attack_within(seconds: float | None, attack: Attack[Any], victim: Victim, number: int) -> Outcome:
    """Attack one update, the `number`-th of several, in so many processor seconds; None: as many as it takes.

    Raises:
        NotApplicable: the attack does not fit the update.
    """
    generator = seeding.generator(1, "attack", number)
    guess, taken = timed(lambda: attack(victim.observation, generator, seconds=seconds))
    items = items_of(guess, victim)
    labels = sum(item.label == item.guessed_label for item in items) / len(items)
    return Outcome(worst_psnr(items), taken, guess, are_exact(items), labels)


def attack_each(attack: Attack[Any], victims: Iterable[Victim], seconds: float | None = None) -> list[Outcome]:
    """Attack updates one after the other, as `attack_within`."""
    return [attack_within(seconds, attack, victim, number) for number, victim in enumerate(victims)]


def items_of(guess: Reconstruction, victim: Victim) -> tuple[ItemScore, ...]:
    """Return the scores of each image of an update; one that was not returned counts as a grey one."""
    return score_items(complete(guess, len(victim.batch)), victim.batch, victim.spec).items


def worst_psnr(items: Iterable[ItemScore]) -> float:
    """Return the PSNR of the worst image in dB."""
    return min(item.values["psnr"] for item in items)


def are_exact(items: Iterable[ItemScore]) -> bool:
    """Say whether every image is exact: each pixel within half of one of 255 steps."""
    return all(item.values["exact_pixels"] > 0 for item in items)


def ceiling_row(victim: observed.Victim, words: str) -> Row:
    """Return the share of images that the ideal attacker recovers of one update exactly."""
    reached = reach([ceiling_of(victim, seconds=_SECONDS).ceiling], Rule.of("exact_pixels", 0.5))
    if reached is None or reached.share is None or reached.psnr is None:
        return Row("ideal attacker", words, 0.0, "share", n=0, note=reached.text if reached else "none")
    note = f"median {reached.psnr:.0f} dB"
    return Row("ideal attacker: images exact", words, reached.share, "share", note=note)
