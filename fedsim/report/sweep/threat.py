"""Who attacks, what the attackers know, and how realistic that is."""

from __future__ import annotations

from typing import NamedTuple

from fedsim.core.types import Knowledge
from fedsim.report.sweep.gathered import Sweep
from fedsim.report.verdict import KNOWLEDGE

REALISM: dict[Knowledge, tuple[str, str]] = {
    "labels": ("often not", "a server sees no labels; without them attacks on batches weaken a lot"),
    "input-statistics": ("mostly", "mean and deviation of a public kind of data are easily guessed"),
    "batch-size": ("yes", "it is part of the protocol, or of the number of examples that is sent"),
    "dropout-rates": ("yes", "they stand in the code that the server sends"),
    "masks": ("no", "they never leave the client: this is a control"),
    "defenses": ("yes", "a defense that must stay secret is none"),
    "components": ("yes", "they stand in the code that the server sends"),
    "draws": ("no", "they never leave the client: this is a control"),
    "given": ("often not", "it belongs to the example, as a question beside an image"),
    "earlier-rounds": ("yes", "a server keeps what it received"),
}
"""Realistic or not, and why (Huang et al. 2021, arXiv 2112.00059, sections 3 and 4, for labels and statistics)."""


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
        Assumption(KNOWLEDGE[what], "every attack" if len(own) == len(labels) else ", ".join(own), *REALISM[what])
        for what, own in granted.items()
    ]
