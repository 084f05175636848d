"""Threat models of a sweep, and the realism of the attackers' knowledge."""

from __future__ import annotations

from fedsim.core.types import GRANTS, Knowledge
from fedsim.report.document import Card, Cards, Table, TableRow, paragraph
from fedsim.report.sweep.gathered import SweepRecords
from fedsim.report.tables.figures import with_noun


def threats(sweep: SweepRecords) -> Cards:
    """Return every threat model of the sweep with its number of settings."""
    return Cards(tuple(_card(sweep, name, sentences) for name, sentences in sweep.threats.items()))


def assumptions(sweep: SweepRecords) -> Table:
    """Return a table of granted knowledge, the attacks that have it, and its realism."""
    granted: dict[Knowledge, dict[str, None]] = {}
    labels: dict[str, None] = {}
    for setting in sweep.settings:
        for label in setting.labels:
            labels[label] = None
            for knowledge in setting.knows(label):
                granted.setdefault(knowledge, {})[label] = None
    rows = [
        TableRow.of(
            GRANTS[name].assumption_name,
            "every attack" if len(attacks) == len(labels) else ", ".join(attacks),
            GRANTS[name].realistic,
            GRANTS[name].why,
        )
        for name, attacks in granted.items()
    ]
    headings = ("granted", "to", "realistic", "because")
    return Table.of("What attacks were granted", headings, rows, is_sortable=False, layout="words")


def _card(sweep: SweepRecords, name: str, sentences: tuple[str, ...]) -> Card:
    settings = sum(setting.threat == name for setting in sweep.settings)
    return Card(f"{name.capitalize()}, {with_noun(settings, 'setting')}", tuple(map(paragraph, sentences)))
