"""One scenario -> one record: train the federation, observe, attack, score, and keep what was found at every step."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from statistics import median
from typing import Any, Protocol

import numpy as np
import torch

from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError, reason
from fedsim.core.hooks import MembershipAttack
from fedsim.core.types import (
    Knowledge,
    Mechanism,
    Observation,
    OnStep,
    Reconstruction,
    Shadow,
    ShadowPlan,
    Target,
    Tensors,
    Truth,
    Update,
    WireEntry,
)
from fedsim.data.partition import describe_partition
from fedsim.federation import engines
from fedsim.federation.journal import Journal
from fedsim.metrics.statistics import summarise
from fedsim.privacy.accounting import guarantee, in_rounds
from fedsim.record import (
    ArmRecord,
    AttackRecord,
    ClientCost,
    Failure,
    GuaranteeRecord,
    KeptUpdate,
    MembershipRecord,
    RoundRecord,
    RunRecord,
    VictimRecord,
)
from fedsim.record.environment import environment
from fedsim.record.store import RunFolder
from fedsim.scenario import AttackChoice, MembershipChoice, Scenario, arms
from fedsim.scenario.world import World, shared
from fedsim.threat import membership, memorisation
from fedsim.threat.attacking import Attacker, Attackers, in_process
from fedsim.threat.canaries import audited
from fedsim.threat.observe import describe, observe
from fedsim.threat.replay import Replay, check_union, replay
from fedsim.threat.scoring import scored


class Watcher(Protocol):
    """Somebody who watches a run: a progress display, a log, a test."""

    def threat_model(self, sentences: tuple[str, ...]) -> None:
        """The attacker, in plain sentences, before anything runs."""

    def arm(self, name: str, number: int, total: int, rounds: int) -> None:
        """An arm begins."""

    def round(self, record: RoundRecord) -> None:
        """A federated round ended."""

    def attack(self, label: str, victim: int, victims: int) -> OnStep:
        """An attack begins on one victim; returns what to call once an iteration."""
        ...

    def attacked(self, label: str, victim: VictimRecord) -> None:
        """That attack ended."""

    def shadow(self, label: str, number: int, total: int) -> None:
        """A membership attack is about to train one of its shadow models."""

    def judged(self, record: MembershipRecord) -> None:
        """A membership attack ended."""


@dataclass
class _Run:
    """A run in progress. Its record says interrupted until `finish`, so that a kill leaves the truth behind."""

    folder: RunFolder
    record: RunRecord
    arrays: dict[str, np.ndarray]
    watcher: Watcher
    should_stop: Callable[[], bool]
    attackers: Attackers

    def look_up(self) -> None:
        """Stop here, between two steps, if somebody asked for it."""
        if self.should_stop():
            raise KeyboardInterrupt

    def keep(self, arm: ArmRecord, number: int) -> None:
        kept = (*self.record.arms[:number], arm)
        self.record = self.record.model_copy(update={"arms": kept})
        self.folder.write_arrays(self.arrays)
        self.folder.write_record(self.record)

    def fail(self, error: Exception) -> None:
        """Say in the record of an earlier arm why there are no further ones."""
        if not self.record.arms:
            return
        failure = Failure(who="run", why=str(error))
        self.record = self.record.model_copy(update={"status": "failed", "failures": (failure,), "ended": _now()})
        self.folder.write_record(self.record)

    def finish(self) -> RunRecord:
        self.record = self.record.model_copy(update={"status": "finished", "ended": _now()})
        self.folder.write_record(self.record)
        return self.record


def run(
    scenario: Scenario,
    folder: RunFolder,
    watcher: Watcher,
    *,
    command: str,
    earlier: RunRecord | None,
    should_stop: Callable[[], bool] = lambda: False,
    attackers: Attackers = in_process,
) -> RunRecord:
    """Run every arm of a scenario and leave record, arrays and weights in `folder`.

    Args:
        scenario: as `fedsim.scenario.load` returns it.
        folder: an empty run folder, or that of `earlier`.
        watcher: told of every round, attack and iteration.
        command: the command line to keep in the record.
        earlier: an interrupted record of the same scenario whose complete arms are kept.
        should_stop: asked after every round and iteration; when it says yes the run ends with KeyboardInterrupt.
        attackers: where attacks run; records are the same wherever that is.

    Raises:
        FedsimError: a mistake in the scenario that shows only at work: a missing data set, a client function that
            always fails, a run folder of another scenario.
    """
    torch.set_num_threads(1)
    digest = scenario_hash(scenario)
    if earlier is not None and earlier.scenario_hash != digest:
        raise FedsimError(f"{folder.path} holds a run of another scenario or seed; it cannot be resumed with this one.")
    done = tuple(arm for arm in earlier.arms if arm.complete) if earlier else ()
    todo = arms(scenario)
    worlds = [arm.model_dump_json() for _, arm in todo]
    sentences = _threat_model(todo, worlds)
    watcher.threat_model(sentences)
    record = RunRecord(
        status="interrupted",
        scenario=scenario.model_dump(mode="json"),
        scenario_hash=digest,
        threat_model=sentences,
        environment=environment(command),
        started=earlier.started if earlier else _now(),
        arms=done,
    )
    this = _Run(folder, record, folder.read_arrays() if earlier else {}, watcher, should_stop, attackers)
    for number, ((values, arm), world_json) in enumerate(zip(todo, worlds, strict=True)):
        if number < len(done):
            continue
        name = _name(values)
        watcher.arm(name, number + 1, len(todo), arm.federation.rounds)
        try:
            _run_arm(this, shared(world_json), world_json, number, name, values)
        except Exception as error:
            this.fail(error)
            raise
    return this.finish()


def train(world_json: str, on_round: Callable[[RoundRecord], None]) -> Journal:
    """Run the federation of one arm and return what the server saw."""
    journal = Journal(on_round)
    engines.run(world_json, journal)
    return journal


def scenario_hash(scenario: Scenario) -> str:
    """Return the hash that identifies what a resolved scenario runs, seed included; how it is judged is no part."""
    canonical = json.dumps(scenario.model_dump(mode="json", exclude={"expected", "policy", "tune"}), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def model_hash(weights: Tensors) -> str:
    """Return a hash of names and bits of a state dict."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def guarantees(world: World, rounds: Sequence[RoundRecord]) -> tuple[GuaranteeRecord, ...]:
    """Return what each private mechanism of an arm guaranteed over the rounds that were run."""
    stated = dict(world.facts.client_mechanisms)
    if world.facts.server_mechanism is not None:
        stated[world.scenario.aggregation.name] = world.facts.server_mechanism
    return tuple(_guaranteed(name, mechanism, rounds) for name, mechanism in stated.items())


def _guaranteed(source: str, mechanism: Mechanism, rounds: Sequence[RoundRecord]) -> GuaranteeRecord:
    """Compose all rounds where clients are sampled, else those of the client that was asked most often."""
    is_sampled = mechanism.unit == "client" and mechanism.sampling_rate < 1
    asked = Counter(client for record in rounds for client in record.cohort)
    number = len(rounds) if is_sampled else max(asked.values(), default=0)
    whose = "the whole run" if is_sampled else "the client that was asked most often"
    found = guarantee(mechanism, [in_rounds(mechanism, number)])
    rounds_run = f"{number} {'round' if number == 1 else 'rounds'}"
    stated = {**vars(found), "composition": f"{found.composition} in {rounds_run}, those of {whose}"}
    return GuaranteeRecord(
        source=source,
        noise_multiplier=mechanism.noise_multiplier,
        holds_against_server=mechanism.holds_against_server,
        **stated,
    )


def _run_arm(this: _Run, world: World, world_json: str, number: int, name: str, values: dict[str, Any]) -> None:
    begin = time.perf_counter()
    scenario = world.scenario

    def on_round(record: RoundRecord) -> None:
        this.watcher.round(record)
        this.look_up()

    world.check()
    if scenario.threat.sees == "sum" and scenario.attacks:
        check_union(world)
    if scenario.membership is not None:
        membership.check(world)
    if scenario.exposure is not None:
        memorisation.check(world)
    journal = train(world_json, on_round)
    this.folder.write_record(this.record)  # before anything else lies there: it says that the rest is ours
    this.folder.write_weights(number, journal.weights)
    model = world.models.new()
    replays = [replay(world, entry) for entry in journal.entries]
    stated = guarantees(world, journal.rounds)
    arm = ArmRecord(
        name=name,
        values=values,
        parameters=sum(p.numel() for p in model.parameters()),
        dropout=tuple(site.rate for site in world.models.sites),
        model_hash=model_hash(journal.weights),
        attacked_model=_state_of_model(scenario),
        partition=describe_partition(
            world.data.shares,
            world.data.dataset.train.labels,
            scheme=scenario.partition.scheme,
            class_names=world.data.dataset.class_names,
        ),
        rounds=tuple(journal.rounds),
        replay_matches=all(own.matches for own in replays),
        attacks=(),
        updates=_kept(this, number, journal.entries, replays) if scenario.threat.keep_updates else (),
        guarantees=stated,
        audits=audited(world, stated) if scenario.audit else (),
        exposure=memorisation.exposed(world, journal) if scenario.exposure else None,
        complete=not scenario.attacks and scenario.membership is None,
        client_cost=_client_cost(replays),
    )
    this.keep(arm, number)
    for position, choice in enumerate(scenario.attacks):
        attacked = [(entry, own.truth) for entry, own in zip(journal.entries, replays, strict=True)]
        label = choice.label or choice.name
        with this.attackers(
            choice, seeding.derive(scenario.seed, f"foreign to attack {label}"), this.should_stop
        ) as attacker:
            victims = _attack(this, world, choice, attacker, attacked, f"arm-{number}/{label}")
        arm = arm.model_copy(
            update={
                "attacks": (*arm.attacks, _summarised(scenario, choice, victims)),
                "complete": position == len(scenario.attacks) - 1 and scenario.membership is None,
                "seconds": time.perf_counter() - begin,
            }
        )
        this.keep(arm, number)
    if scenario.membership is None:
        return
    inference = _Inference(this, world, journal, [own.truth for own in replays])
    for position, choice in enumerate(scenario.membership.attacks):
        arm = arm.model_copy(
            update={
                "membership": (*arm.membership, inference.record(choice)),
                "complete": position == len(scenario.membership.attacks) - 1,
                "seconds": time.perf_counter() - begin,
            }
        )
        this.keep(arm, number)


@dataclass
class _Inference:
    """The membership attacks of an arm. Candidates and shadow models are made once, when the first attack asks."""

    run: _Run
    world: World
    journal: Journal
    truths: Sequence[Truth]
    _cases: dict[Target, membership.Case] = field(default_factory=dict)
    _shadows: dict[tuple[Target, ShadowPlan], tuple[Shadow, ...]] = field(default_factory=dict)

    def record(self, choice: MembershipChoice) -> MembershipRecord:
        """Run one attack and score it; why it failed stands in the record."""
        attack: MembershipAttack[Any] = choice.make("membership")
        record = MembershipRecord(
            label=choice.label or choice.name,
            name=choice.name,
            settings=choice.settings,
            target=attack.target,
            members=0,
            non_members=0,
        )
        try:
            record = self._judged(record, attack)
        except Exception as error:
            record = record.model_copy(update={"failure": reason(error)})
        self.run.watcher.judged(record)
        return record

    def _judged(self, record: MembershipRecord, attack: MembershipAttack[Any]) -> MembershipRecord:
        scenario, case = self.world.scenario, self._case(attack.target)
        seen = replace(case.observation, shadows=self._trained(record.label, attack, case))
        begin = time.perf_counter()
        scores = attack(seen, seeding.generator(scenario.seed, f"membership attack {record.label}"))
        seconds = time.perf_counter() - begin
        self.run.look_up()
        return membership.judged(record, case, scores, self.world, seconds)

    def _case(self, target: Target) -> membership.Case:
        if target not in self._cases:
            self._cases[target] = (
                membership.of_model(self.world, self.journal)
                if target == "model"
                else membership.of_updates(self.world, self.journal, self.truths)
            )
        return self._cases[target]

    def _trained(
        self, label: str, attack: MembershipAttack[Any], case: membership.Case
    ) -> dict[ShadowPlan, tuple[Shadow, ...]]:
        """Return the shadow models that an attack asks for, and no others."""
        plan = attack.plan()
        if plan is None:
            return {}

        def on_shadow(number: int) -> None:
            self.run.watcher.shadow(label, number, plan.count)
            self.run.look_up()

        key = (attack.target, plan)
        if key not in self._shadows:
            seed = self.world.scenario.seed
            self._shadows[key] = membership.shadows(case.observation, plan, seed, on_shadow)
        return {plan: self._shadows[key]}


def _client_cost(replays: Sequence[Replay]) -> ClientCost | None:
    costs = [cost for own in replays for cost in own.costs]
    if not costs:
        return None
    return ClientCost(
        processor_seconds=median(cost.processor_seconds for cost in costs),
        peak_memory=max((cost.peak_memory for cost in costs if cost.peak_memory is not None), default=None),
        n=len(costs),
    )


def _kept(this: _Run, arm: int, entries: Sequence[WireEntry], replays: Sequence[Replay]) -> tuple[KeptUpdate, ...]:
    """Store the attacked updates of an arm, and return where they lie."""
    if not entries:
        return ()
    arrays: dict[str, np.ndarray] = {}
    for entry, own in zip(entries, replays, strict=True):
        place = _place(entry)
        arrays.update(_by_name(f"{place}/wire", entry.update))
        if not own.raw_is_wire:
            arrays.update(_by_name(f"{place}/raw", own.truth.raw))
    file = this.folder.write_updates(arm, arrays)
    return tuple(
        KeptUpdate(round=entry.round, client=entry.client, file=file, raw_is_wire=own.raw_is_wire)
        for entry, own in zip(entries, replays, strict=True)
    )


def _place(entry: WireEntry) -> str:
    """Return where what belongs to an observed update is stored."""
    return f"round-{entry.round}/{'sum' if entry.clients else f'client-{entry.client}'}"


def _by_name(place: str, update: Update) -> dict[str, np.ndarray]:
    return {f"{place}/{name}": t.detach().numpy() for name, t in {**update.tensors, **update.buffers}.items()}


def _attack(
    this: _Run,
    world: World,
    choice: AttackChoice,
    attacker: Attacker,
    attacked: Sequence[tuple[WireEntry, Truth]],
    prefix: str,
) -> list[VictimRecord]:
    """Attack every observed update, as many together as the attack likes."""
    over_rounds = bool(getattr(registry.get("attack", choice.name).make, "over_rounds", False))
    knows = _knowledge(world.scenario, choice)
    empty = [_unharmed(entry) for entry, truth in attacked if not any(map(len, truth.private))]
    attacked = [(entry, truth) for entry, truth in attacked if any(map(len, truth.private))]
    records: list[VictimRecord] = []
    while len(records) < len(attacked):
        before = attacked if over_rounds else ()
        first = _observed(world, before, attacked[len(records)], knows)
        chunk = attacked[len(records) : len(records) + attacker.at_once(first)]
        seen = [first, *(_observed(world, before, one, knows) for one in chunk[1:])]
        watch = this.watcher.attack(choice.label or choice.name, len(records) + len(chunk), len(attacked))
        begin = time.perf_counter()
        found = _found(world, choice, attacker, seen, [entry for entry, _ in chunk], watch)
        this.look_up()
        seconds = (time.perf_counter() - begin) / len(chunk)
        for (entry, truth), result in zip(chunk, found, strict=True):
            victim = _recorded(this, world, entry, truth, result, f"{prefix}/{_place(entry)}")
            records.append(victim.model_copy(update={"seconds": seconds}))
            this.watcher.attacked(choice.label or choice.name, records[-1])
    return sorted([*records, *empty], key=lambda record: (record.round, record.client))


def _observed(
    world: World,
    others: Sequence[tuple[WireEntry, Truth]],
    one: tuple[WireEntry, Truth],
    knows: Collection[Knowledge],
) -> Observation:
    """Observe one update, with those among others that the same client sent before."""
    who = one[0]
    before = [
        other
        for other in others
        if (other[0].client, other[0].clients) == (who.client, who.clients) and other[0].round < who.round
    ]
    return observe(world, *one, knows, before)


def _unharmed(entry: WireEntry) -> VictimRecord:
    why = "the update holds no example: Poisson sampling drew empty batches, so there is nothing to recover"
    return VictimRecord(round=entry.round, client=entry.client, clients=entry.clients, failure=why)


def _found(
    world: World,
    choice: AttackChoice,
    attacker: Attacker,
    seen: Sequence[Observation],
    entries: Sequence[WireEntry],
    watch: OnStep,
) -> list[Reconstruction | str]:
    """What the attack made of each observation, or why it failed. One failure among several does not spoil the rest."""
    purpose = f"attack {choice.label or choice.name}"
    generators = [seeding.generator(world.scenario.seed, purpose, entry.round, entry.client) for entry in entries]
    found = attacker.search(seen, generators, watch)
    if not isinstance(found, str):
        return [*found]
    if len(seen) == 1:
        return [found]
    alone = zip(seen, entries, strict=True)
    return [_found(world, choice, attacker, [one], [entry], watch)[0] for one, entry in alone]


def _recorded(
    this: _Run, world: World, entry: WireEntry, truth: Truth, result: Reconstruction | str, arrays: str
) -> VictimRecord:
    if not isinstance(result, Reconstruction):
        return VictimRecord(round=entry.round, client=entry.client, clients=entry.clients, failure=result)
    try:
        victim, kept = scored(world, entry, truth, result)
    except Exception as error:  # an attack may return anything
        why = f"its guess cannot be scored: {reason(error)}"
        return VictimRecord(round=entry.round, client=entry.client, clients=entry.clients, failure=why)
    if not kept:
        return victim
    this.arrays.update({f"{arrays}/{name}": array for name, array in kept.items()})
    return victim.model_copy(update={"arrays": arrays})


def _summarised(scenario: Scenario, choice: AttackChoice, victims: list[VictimRecord]) -> AttackRecord:
    scoring = scenario.scoring
    return AttackRecord(
        label=choice.label or choice.name,
        name=choice.name,
        knows=_knowledge(scenario, choice),
        settings=choice.settings,
        victims=tuple(victims),
        summary=summarise(
            victims,
            scoring.metric,
            scoring.threshold,
            scenario.seed,
            confidence=scoring.confidence,
            resamples=scoring.resamples,
        )
        if victims
        else None,
    )


def _knowledge(scenario: Scenario, choice: AttackChoice) -> tuple[Knowledge, ...]:
    return tuple(sorted({*scenario.threat.knows, *choice.also_knows}))


def _threat_model(todo: Sequence[tuple[dict[str, Any], Scenario]], worlds: Sequence[str]) -> tuple[str, ...]:
    """Describe the first arm, and what is different in the first arm with another kind of server."""
    sentences = describe(shared(worlds[0]))
    firsts = {arm.threat.server: index for index, (_, arm) in reversed(list(enumerate(todo)))}
    for index in sorted(firsts.values())[1:]:
        other = (sentence for sentence in describe(shared(worlds[index])) if sentence not in sentences)
        sentences += tuple(f"In arm '{_name(todo[index][0])}': {sentence}" for sentence in other)
    return sentences


def _name(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{_short(key)} {value}" for key, value in values.items()) or "all"


def _state_of_model(scenario: Scenario) -> str:
    start = f"weights of {scenario.model.checkpoint.name}" if scenario.model.checkpoint else "untrained"
    if scenario.crafting is not None:
        start = f"{start}, changed by {scenario.crafting.label or scenario.crafting.name}"
    earlier = [round_ - 1 for round_ in scenario.threat.rounds]
    if not any(earlier):
        return start
    return f"{start}, then after {', '.join(map(str, earlier))} rounds of training"


def _short(key: str) -> str:
    """The last word of a dotted key that says something: ``model`` for ``model.name``."""
    return key.removesuffix(".name").rpartition(".")[2]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
