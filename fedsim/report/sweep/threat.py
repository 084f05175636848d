"""Who attacks, what the attackers know, and how realistic that is."""

from __future__ import annotations

from fedsim.core.types import Knowledge
from fedsim.document import Card, Cards, Table, TableRow, paragraph
from fedsim.report.sweep.gathered import SweepRecords
from fedsim.report.tables.figures import with_noun
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


def threats(sweep: SweepRecords) -> Cards:
    """Return every threat model of the sweep, with the number of settings under it."""
    return Cards(tuple(_card(sweep, name, sentences) for name, sentences in sweep.threats.items()))


def assumptions(sweep: SweepRecords) -> Table:
    """Return everything that some attack was granted, and which attacks were."""
    granted: dict[Knowledge, dict[str, None]] = {}
    labels: dict[str, None] = {}
    for setting in sweep.settings:
        for label in setting.labels:
            labels[label] = None
            for what in setting.knows(label):
                granted.setdefault(what, {})[label] = None
    rows = [
        TableRow.of(KNOWLEDGE[what], "every attack" if len(whose) == len(labels) else ", ".join(whose), *REALISM[what])
        for what, whose in granted.items()
    ]
    headings = ("granted", "to", "realistic", "because")
    return Table.of("What attacks were granted", headings, rows, is_sortable=False, layout="words")


def _card(sweep: SweepRecords, name: str, sentences: tuple[str, ...]) -> Card:
    settings = sum(setting.threat == name for setting in sweep.settings)
    return Card(f"{name.capitalize()}, {with_noun(settings, 'setting')}", tuple(map(paragraph, sentences)))
