"""Attacks with scores of examples."""

from typing import get_args

from fedsim.core.types import Knowledge
from fedsim.questions.attacks.question import finding_of
from fedsim.record import AttackFinding, ItemScore, VictimRecord
from fedsim.scenario import AttackChoice, Scoring


def attack(items: list[ItemScore]) -> AttackFinding:
    victims = [VictimRecord(round=1, client=client, scores=(item,)) for client, item in enumerate(items)]
    choice = AttackChoice(name="a", settings={})
    return finding_of(choice, get_args(Knowledge), victims, Scoring(metric="psnr", threshold=20.0), seed=1)


def item(**more: float) -> ItemScore:
    return ItemScore(index=0, values={"mse": 0.1, "psnr": 10.0, "ssim": 0.0, **more}, label=0, guessed_label=0)
