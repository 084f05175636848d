"""The attacks of an arm on observed updates."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

from fedsim.core import registry, seeding
from fedsim.core.errors import reason
from fedsim.core.hooks import Attack
from fedsim.core.types import Knowledge, Observation, OnStep, Reconstruction, WireEntry
from fedsim.experiment.progress import RunInProgress
from fedsim.metrics.statistics import summarise
from fedsim.metrics.success import Rule
from fedsim.record import AttackRecord, Ceiling, VictimRecord
from fedsim.scenario import AttackChoice, Scenario
from fedsim.scenario.world import World
from fedsim.threat.attacking import AtWork, at_once, search
from fedsim.threat.ceiling import ceiling_of
from fedsim.threat.observe import observe
from fedsim.threat.scoring import score
from fedsim.threat.victim import Victim


def attack(
    this: RunInProgress,
    world: World,
    choice: AttackChoice,
    attacker: AtWork,
    attacked: Sequence[Victim],
    prefix: str,
    ceilings: Mapping[str, Ceiling],
) -> list[VictimRecord]:
    """Attack every observed update, as many together as the attack likes; `ceilings` are by the place of an update."""
    attack_class = registry.get("attack", choice.name).derived_from(Attack)
    over_rounds = attack_class is not None and attack_class.over_rounds
    knows = _knowledge(world.scenario, choice)
    empty = [_unharmed(victim.entry) for victim in attacked if not any(map(len, victim.truth.private))]
    attacked = [victim for victim in attacked if any(map(len, victim.truth.private))]
    records: list[VictimRecord] = []
    while len(records) < len(attacked):
        before = attacked if over_rounds else ()
        first = _observe(attacked[len(records)], before, knows)
        chunk = attacked[len(records) : len(records) + at_once(attacker, first)]
        seen = [first, *(_observe(victim, before, knows) for victim in chunk[1:])]
        watch = this.watcher.attack(choice.label or choice.name, len(records) + len(chunk), len(attacked))
        begin = time.perf_counter()
        results = _search(world, choice, attacker, seen, [victim.entry for victim in chunk], watch)
        this.look_up()
        seconds = (time.perf_counter() - begin) / len(chunk)
        for victim, result in zip(chunk, results, strict=True):
            record = _recorded(this, victim, result, f"{prefix}/{place_of(victim.entry)}")
            known = ceilings.get(place_of(victim.entry))
            records.append(record.model_copy(update={"seconds": seconds, "ceiling": known}))
            this.watcher.attacked(choice.label or choice.name, records[-1])
    return sorted([*records, *empty], key=lambda record: (record.round, record.client))


def find_ceilings(this: RunInProgress, attacked: Sequence[Victim], prefix: str) -> dict[str, Ceiling]:
    """Return the ceiling of every observed update by its place, and keep the map of what is known of its examples."""
    ceilings: dict[str, Ceiling] = {}
    for victim in attacked:
        place = place_of(victim.entry)
        ceilings[place], known = ceiling_of(victim)
        if known is not None:
            this.arrays[f"{prefix}/{place}/known"] = known.float().numpy()
        this.look_up()
    return ceilings


def _observe(victim: Victim, others: Sequence[Victim], knows: Collection[Knowledge]) -> Observation:
    """Observe one update, with those among others that the same client sent before."""
    who = victim.entry
    before = [
        other
        for other in others
        if (other.entry.client, other.entry.clients) == (who.client, who.clients) and other.entry.round < who.round
    ]
    return observe(victim, knows, before)


def _unharmed(entry: WireEntry) -> VictimRecord:
    why = "the update holds no example: Poisson sampling drew empty batches, so there is nothing to recover"
    return VictimRecord(round=entry.round, client=entry.client, clients=entry.clients, failure=why)


def _search(
    world: World,
    choice: AttackChoice,
    attacker: AtWork,
    seen: Sequence[Observation],
    entries: Sequence[WireEntry],
    watch: OnStep,
) -> list[Reconstruction | str]:
    """What the attack made of each observation, or why it failed. One failure among several does not spoil the rest."""
    purpose = f"attack {choice.label or choice.name}"
    generators = [seeding.generator(world.scenario.seed, purpose, entry.round, entry.client) for entry in entries]
    guesses = search(attacker, seen, generators, watch)
    if not isinstance(guesses, str):
        return [*guesses]
    if len(seen) == 1:
        return [guesses]
    alone = zip(seen, entries, strict=True)
    return [_search(world, choice, attacker, [one], [entry], watch)[0] for one, entry in alone]


def _recorded(this: RunInProgress, victim: Victim, result: Reconstruction | str, arrays: str) -> VictimRecord:
    entry = victim.entry
    if not isinstance(result, Reconstruction):
        return VictimRecord(round=entry.round, client=entry.client, clients=entry.clients, failure=result)
    try:
        record, kept = score(victim, result)
        registry.declared([*record.values, *(name for item in record.scores for name in item.values)])
    except Exception as error:  # an attack may return anything
        why = f"its guess cannot be scored: {reason(error)}"
        return VictimRecord(round=entry.round, client=entry.client, clients=entry.clients, failure=why)
    if not kept:
        return record
    this.arrays.update({f"{arrays}/{name}": array for name, array in kept.items()})
    return record.model_copy(update={"arrays": arrays})


def summarise_attack(scenario: Scenario, choice: AttackChoice, victims: list[VictimRecord]) -> AttackRecord:
    """Return the record of an attack, with what it reached over all victims."""
    scoring = scenario.scoring
    return AttackRecord(
        label=choice.label or choice.name,
        name=choice.name,
        knows=_knowledge(scenario, choice),
        settings=choice.settings,
        victims=tuple(victims),
        summary=summarise(
            victims,
            Rule.of(scoring.metric, scoring.threshold),
            scenario.seed,
            confidence=scoring.confidence,
            resamples=scoring.resamples,
        ),
    )


def _knowledge(scenario: Scenario, choice: AttackChoice) -> tuple[Knowledge, ...]:
    return tuple(sorted({*scenario.threat.knows, *choice.also_knows}))


def place_of(entry: WireEntry) -> str:
    """Return where what belongs to an observed update is stored."""
    return f"round-{entry.round}/{'sum' if entry.clients else f'client-{entry.client}'}"
