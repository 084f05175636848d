"""The attacks of an arm that ask for an attribute of the data behind updates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from fedsim.core.errors import reason
from fedsim.core.hooks import AttributeAttack
from fedsim.experiment.progress import RunInProgress
from fedsim.federation.journal import Journal
from fedsim.record import AttributeRecord
from fedsim.scenario import AttributeChoice
from fedsim.scenario.world import World
from fedsim.threat import attributes


def ask(run: RunInProgress, world: World, journal: Journal) -> tuple[AttributeRecord, ...]:
    """Run every attack of the scenario and score it; why one failed stands in its record.

    Attacks on one attribute see the same changes of public examples, which are computed once.
    """
    asked = world.scenario.attributes.attacks if world.scenario.attributes else ()
    by_attribute: dict[str, list[AttributeChoice]] = {}
    for choice in asked:
        by_attribute.setdefault(choice.attribute, []).append(choice)
    found: dict[str, AttributeRecord] = {}
    for name, choices in by_attribute.items():
        found.update(_of_one(run, world, journal, name, choices))
    return tuple(found[choice.title] for choice in asked)


def _of_one(
    run: RunInProgress, world: World, journal: Journal, name: str, choices: Sequence[AttributeChoice]
) -> dict[str, AttributeRecord]:
    attacks: dict[str, AttributeAttack[Any]] = {own.title: own.make("attribute") for own in choices}
    records = {
        own.title: AttributeRecord(label=own.title, name=own.name, settings=own.settings, attribute=name)
        for own in choices
    }
    begin = time.perf_counter()
    try:
        rounds = []
        for _, entries in groupby(journal.entries, key=lambda entry: entry.round):
            rounds.append(attributes.told(world, name, tuple(entries), attacks))
            run.look_up()
    except Exception as error:
        return {title: own.model_copy(update={"failure": reason(error)}) for title, own in records.items()}
    shared = (time.perf_counter() - begin) / len(choices)
    return {title: _judged(own, attacks[title], rounds, world, shared) for title, own in records.items()}


def _judged(
    record: AttributeRecord,
    attack: AttributeAttack[Any],
    rounds: Sequence[attributes.Told],
    world: World,
    shared: float,
) -> AttributeRecord:
    begin = time.perf_counter()
    try:
        record = attributes.judged(record, attack, rounds, world)
    except Exception as error:
        record = record.model_copy(update={"failure": reason(error)})
    return record.model_copy(update={"seconds": shared + time.perf_counter() - begin})
