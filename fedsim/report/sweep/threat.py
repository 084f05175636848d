"""Who attacks, what the attackers know, and how realistic that is."""

from __future__ import annotations

from typing import NamedTuple

from fedsim.core.types import GRANTS, Knowledge
from fedsim.report.sweep.gathered import Sweep


class Assumption(NamedTuple):
    """Something that attackers were granted."""

    what: str
    whose: str
    realistic: str
    why: str


class Threat(NamedTuple):
    """One threat model with the settings under it."""

    name: str
    sentences: tuple[str, ...]
    settings: int


def threats(sweep: Sweep) -> list[Threat]:
    """Return every threat model of the sweep."""
    return [
        Threat(name, sentences, sum(setting.threat == name for setting in sweep.settings))
        for name, sentences in sweep.threats.items()
    ]


def assumptions(sweep: Sweep) -> list[Assumption]:
    """Return everything that some attack was granted, and which attacks were."""
    granted: dict[Knowledge, dict[str, None]] = {}
    labels: dict[str, None] = {}
    for setting in sweep.settings:
        for label in setting.labels:
            labels[label] = None
            for what in setting.knows(label):
                granted.setdefault(what, {})[label] = None
    return [
        Assumption(
            what=GRANTS[name].called,
            whose="every attack" if len(attacks) == len(labels) else ", ".join(attacks),
            realistic=GRANTS[name].realistic,
            why=GRANTS[name].why,
        )
        for name, attacks in granted.items()
    ]
