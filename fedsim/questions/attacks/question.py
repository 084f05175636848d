"""attacks: reconstruct a client's examples from its update.

The server sees single updates, the mean of a round's updates, or estimates from an unlearning request. Each attack of
the scenario returns a reconstruction, which is scored against the client's examples.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar, final

from fedsim.core import registry, seeding
from fedsim.core.best_step import TimedConfig
from fedsim.core.errors import reason
from fedsim.core.hooks import Attack
from fedsim.core.registry import question
from fedsim.core.types import Knowledge, Observation, OnStep, Reconstruction, WireEntry
from fedsim.judgement.evidence import is_evidence
from fedsim.judgement.outcome import blind_chance
from fedsim.metrics.statistics import summarise
from fedsim.metrics.success import Rule
from fedsim.processes.methods import MethodRunner, max_victims, search
from fedsim.questions.attacks import unlearning
from fedsim.questions.attacks.ceiling import ceiling_of
from fedsim.questions.base import Evidence, Question, QuestionContext
from fedsim.record import ATTACKS, AttackFinding, Ceiling, VictimRecord
from fedsim.scenario import AttackChoice, Scenario, Scoring
from fedsim.scenario.world import World
from fedsim.threat.observe import observe
from fedsim.threat.replay import check_union
from fedsim.threat.scoring import score
from fedsim.threat.victim import Victim


@final
@question("attacks", summary="what does an attack recover from an update?")
class UpdateQuestion(Question[TimedConfig]):
    """Runs every attack of the list `attacks` on every watched update; the question has no settings of its own."""

    title: ClassVar[str] = "What does an update reveal?"

    @classmethod
    def example(cls) -> Mapping[str, Any]:
        """Return the tables of a scenario with one attack."""
        return {"data": {"name": "digits"}, "attacks": [{"name": "closed-form-linear"}]}

    def check(self, world: World) -> None:
        """Check that the ground truth of a sum is one batch, and that an unlearning request can be simulated."""
        if world.scenario.threat.view == "sum" and world.scenario.attacks:
            check_union(world)
        if world.scenario.unlearning is not None:
            unlearning.check(world)

    def run(self, evidence: Evidence, work: QuestionContext) -> Iterator[AttackFinding]:
        """Yield a finding for each attack, in the scenario's order."""
        world = evidence.world
        victims = _victims(evidence)
        ceilings = _find_ceilings(victims, work) if world.scenario.scoring.ideal_attacker else {}
        for choice in world.scenario.attacks:
            with work.start(choice) as attacker:
                records = list(_attack(world, choice, attacker, victims, work))
            bounded = [record.model_copy(update={"ceiling": ceilings.get(place_of(record))}) for record in records]
            ordered = sorted(bounded, key=lambda observation: (observation.round, observation.client))
            knows = _knowledge(world.scenario, choice)
            yield finding_of(choice, knows, ordered, world.scenario.scoring, world.scenario.seed)


def finding_of(
    choice: AttackChoice, knows: Sequence[Knowledge], victims: Sequence[VictimRecord], scoring: Scoring, seed: int
) -> AttackFinding:
    """Return an attack's finding over all victims; a failure if it returned no reconstruction.

    Args:
        choice: the attack and its settings.
        knows: all granted knowledge.
        victims: the attacked updates.
        scoring: criterion of recovery, and settings of the intervals.
        seed: seed of the resamples.
    """
    rule = Rule.of(scoring.metric, scoring.threshold)
    summary = summarise(victims, rule, seed, confidence=scoring.confidence, resamples=scoring.resamples)
    finding = AttackFinding(
        question=ATTACKS,
        label=choice.report_name,
        method=choice.name,
        settings=choice.settings,
        metric="success",
        seconds=sum(victim.seconds for victim in victims),
        knows=tuple(knows),
        victims=tuple(victims),
    )
    if summary is None:
        has_guess = any(victim.failure is None for victim in victims)  # of an update whose examples are unknown
        reasons = dict.fromkeys(victim.failure for victim in victims if victim.failure)
        failure = "" if has_guess else "; ".join(reasons) or "no update was attacked"
        return finding.model_copy(update={"failure": failure})
    tried = [victim for victim in victims if victim.failure is None]
    return finding.model_copy(
        update={
            "value": summary.success,
            "extra_metrics": summary.metrics,
            "chance_level": blind_chance(tried, rule),
            "is_evidence": all(is_evidence(victim, rule) for victim in tried),
        }
    )


def place_of(update: WireEntry | VictimRecord) -> str:
    """Return the storage prefix of an observed update."""
    return f"round-{update.round}/{'sum' if update.clients else f'client-{update.client}'}"


def _victims(evidence: Evidence) -> list[Victim]:
    """Return the victims: the watched updates, or the server's estimates from unlearning."""
    world = evidence.world
    if world.scenario.unlearning is not None:
        return unlearning.unlearning_victims(world, evidence.journal)
    pairs = zip(evidence.journal.entries, evidence.truths, strict=True)
    return [Victim(world, entry, truth) for entry, truth in pairs]


def _find_ceilings(victims: Sequence[Victim], work: QuestionContext) -> dict[str, Ceiling]:
    """Return the ceiling of every observed update by storage prefix, and store the known share of its entries."""
    ceilings: dict[str, Ceiling] = {}
    for victim in victims:
        place = place_of(victim.entry)
        ceilings[place], known = ceiling_of(victim)
        if known is not None:
            work.keep(f"ceiling/{place}", {"known": known.float().numpy()})
        work.check_cancelled()
    return ceilings


def _attack(
    world: World, choice: AttackChoice, attacker: MethodRunner, victims: Sequence[Victim], work: QuestionContext
) -> Iterator[VictimRecord]:
    """Attack every observed update, in chunks of the size that the attack supports."""
    attack_class = registry.get("attack", choice.name).derived_from(Attack)
    over_rounds = attack_class is not None and attack_class.uses_earlier_rounds
    knows, label = _knowledge(world.scenario, choice), choice.report_name
    yield from (_empty_record(victim.entry) for victim in victims if not any(map(len, victim.truth.original_batches)))
    victims = [victim for victim in victims if any(map(len, victim.truth.original_batches))]
    before, done = victims if over_rounds else (), 0
    while done < len(victims):
        first = _observe(victims[done], before, knows)
        chunk = victims[done : done + max_victims(attacker, first)]
        seen = [first, *(_observe(victim, before, knows) for victim in chunk[1:])]
        watch = work.on_search(label, done + len(chunk), len(victims))
        begin = time.perf_counter()
        results = _search(world, choice, attacker, seen, [victim.entry for victim in chunk], watch)
        work.check_cancelled()
        seconds = (time.perf_counter() - begin) / len(chunk)
        for victim, result in zip(chunk, results, strict=True):
            place = f"{label}/{place_of(victim.entry)}"
            record = record_victim(victim, result, place, work).model_copy(update={"seconds": seconds})
            work.on_victim(label, record)
            yield record
        done += len(chunk)


def _observe(victim: Victim, later_victims: Sequence[Victim], knows: Collection[Knowledge]) -> Observation:
    """Return the observation of an update, with the same client's earlier updates among `later_victims`."""
    entry = victim.entry
    before = [
        victim
        for victim in later_victims
        if (victim.entry.client, victim.entry.clients) == (entry.client, entry.clients)
        and victim.entry.round < entry.round
    ]
    return observe(victim, knows, before)


def _search(
    world: World,
    choice: AttackChoice,
    attacker: MethodRunner,
    seen: Sequence[Observation],
    entries: Sequence[WireEntry],
    watch: OnStep,
) -> list[Reconstruction | str]:
    """Return the reconstruction or the failure of each observation; after a joint failure each runs alone."""
    purpose = "attack"  # not the attack's name: equal seeds make attacks on an update comparable
    generators = [seeding.generator(world.scenario.seed, purpose, entry.round, entry.client) for entry in entries]
    guesses = search(attacker, seen, generators, watch, choice.seconds)
    if not isinstance(guesses, str):
        return [*guesses]
    if len(seen) == 1:
        return [guesses]
    pairs = zip(seen, entries, strict=True)
    return [_search(world, choice, attacker, [attack_name], [entry], watch)[0] for attack_name, entry in pairs]


def record_victim(victim: Victim, result: Reconstruction | str, place: str, work: QuestionContext) -> VictimRecord:
    """Return the record of an attacked update: its scores, or its failure.

    Args:
        victim: the update.
        result: reconstruction of an attack, or its failure.
        place: storage prefix of the images.
        work: stores the images.
    """
    if not isinstance(result, Reconstruction):
        return _failed_record(victim.entry, result)
    try:
        record, kept = score(victim, result)
        registry.find_metrics([*record.values, *(name for item in record.scores for name in item.values)])
    except Exception as error:  # an attack may return anything
        return _failed_record(victim.entry, f"its guess cannot be scored: {reason(error)}")
    if not kept:
        return record
    return record.model_copy(update={"arrays": work.keep(place, kept)})


def _empty_record(entry: WireEntry) -> VictimRecord:
    return _failed_record(
        entry, "the update holds no example: Poisson sampling drew empty batches, so an attack can recover nothing"
    )


def _failed_record(entry: WireEntry, why: str) -> VictimRecord:
    return VictimRecord(round=entry.round, client=entry.client, clients=entry.clients, failure=why)


def _knowledge(scenario: Scenario, choice: AttackChoice) -> tuple[Knowledge, ...]:
    return tuple(sorted({*scenario.threat.knows, *choice.also_knows}))
