"""The attacks of an arm that ask for an attribute of the data behind updates."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from fedsim.core.errors import reason
from fedsim.experiment.progress import RunInProgress
from fedsim.federation.journal import Journal
from fedsim.record import AttributeRecord
from fedsim.scenario import AttributeChoice
from fedsim.scenario.world import World
from fedsim.threat import attributes
from fedsim.threat.attacking.asking import AttributeReader


def ask(
    run: RunInProgress, world: World, journal: Journal, make: Callable[[AttributeChoice], AttributeReader]
) -> tuple[AttributeRecord, ...]:
    """Run every attack of the scenario and score it; why one failed stands in its record.

    Attacks on one attribute see the same changes of public examples, which are computed once. `make` makes them ready.
    """
    asked = world.scenario.attributes.attacks if world.scenario.attributes else ()
    by_attribute: dict[str, list[AttributeChoice]] = {}
    for choice in asked:
        by_attribute.setdefault(choice.attribute, []).append(choice)
    attacks = {choice.title: make(choice) for choice in asked}
    found: dict[str, AttributeRecord] = {}
    for name, choices in by_attribute.items():
        found.update(_of_one(run, world, journal, name, choices, {own.title: attacks[own.title] for own in choices}))
    return tuple(found[choice.title] for choice in asked)


def _of_one(
    run: RunInProgress,
    world: World,
    journal: Journal,
    name: str,
    choices: Sequence[AttributeChoice],
    attacks: Mapping[str, AttributeReader],
) -> dict[str, AttributeRecord]:
    records = {
        own.title: AttributeRecord(label=own.title, name=own.name, settings=own.settings, attribute=name)
        for own in choices
    }

    def on_change(number: int, total: int) -> None:
        run.watcher.public(name, number, total)
        run.look_up()

    begin = time.perf_counter()
    try:
        rounds = []
        for _, entries in groupby(journal.entries, key=lambda entry: entry.round):
            rounds.append(attributes.told(world, name, tuple(entries), attacks, on_change))
    except Exception as error:
        found = [own.model_copy(update={"failure": reason(error)}) for own in records.values()]
    else:
        shared = (time.perf_counter() - begin) / len(choices)
        found = [_judged(own, attacks[title], rounds, world, shared) for title, own in records.items()]
    for own in found:
        run.watcher.read(own)
    return {own.label: own for own in found}


def _judged(
    record: AttributeRecord,
    attack: AttributeReader,
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
