"""The records of a sweep, read one by one and kept only as far as the report needs them: points with their seeds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from fedsim.core.metric import Metric
from fedsim.core.types import Knowledge
from fedsim.experiment.sweep.folder import PLAN, PlannedRun, SweepFolder
from fedsim.experiment.sweep.results import each
from fedsim.metrics import evidence
from fedsim.metrics.comparison import Victims
from fedsim.record import (
    ArmRecord,
    AttackRecord,
    AuditRecord,
    Ceiling,
    ClientCost,
    GuaranteeRecord,
    Interval,
    RunRecord,
    TraceFinding,
    Utility,
    VictimRecord,
)
from fedsim.record.policy import Policy
from fedsim.report.verdict import Judge
from fedsim.scenario import with_values

UNDEFENDED = "undefended"


class Attacked(NamedTuple):
    """One update under one attack; `share` of its examples were recovered, each metric has one value an example.

    `is_evidence` says whether no more could be recovered (`fedsim.metrics.evidence`).
    """

    seed: int
    round: int
    client: int
    share: float
    values: Mapping[str, tuple[float, ...]]
    is_evidence: bool = False
    ceiling: Ceiling | None = None


class Searches(NamedTuple):
    """How the searches of one attack ended, as counts of victims; `converged` explain it as well as the truth."""

    victims: int
    gave_up: int
    searched: int
    converged: int
    falling: int


class Tried(NamedTuple):
    """One attack in one cell. `goal` is the metric by which its guesses are better or worse."""

    label: str
    knows: tuple[Knowledge, ...]
    victims: tuple[Attacked, ...]
    searches: Searches
    reasons: tuple[str, ...]
    seconds: float
    goal: Metric


class Inferred(NamedTuple):
    """One membership attack in one cell; `rates` holds the (FPR, TPR) that n supports."""

    label: str
    members: int
    non_members: int
    auc: Interval
    rates: tuple[tuple[float, float], ...]
    roc: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Cell:
    """One setting under one seed.

    `seconds` is the training alone, for `client_rounds` trainings of a client. `findings` are of traces that `decoder`
    left.
    """

    digest: str
    arm: int
    seed: int
    utility: Utility | None
    guarantees: tuple[GuaranteeRecord, ...]
    audits: tuple[AuditRecord, ...]
    attacks: tuple[Tried, ...]
    members: tuple[Inferred, ...]
    parameters: int
    seconds: float
    client_rounds: int
    client_cost: ClientCost | None
    decoder: str = ""
    findings: tuple[TraceFinding, ...] = ()


@dataclass
class Setting:
    """One point: what the sweep and the arms set, without the seed.

    Attributes:
        family: names of the defenses and components in force, or ``undefended``.
        knobs: every number in its resolved scenario, by dotted key.
        threat: who attacks, in words.
        data: which data, and when an example of them counts as recovered, in words.
        rule: when an example counts as recovered, in words.
        decides: the metric of that.
    """

    name: str
    values: dict[str, Any]
    family: str
    threat: str
    data: str
    knobs: dict[str, float]
    rule: str
    decides: Metric
    cells: list[Cell] = field(default_factory=list)

    @property
    def is_undefended(self) -> bool:
        """Whether nothing protects the clients."""
        return self.family == UNDEFENDED

    @property
    def measured(self) -> Metric | None:
        """What was measured of its models on the test set; None where nothing was."""
        return next((cell.utility.metric for cell in self.cells if cell.utility is not None), None)

    @property
    def measure(self) -> str:
        """Its title; empty where nothing was measured."""
        return self.measured.title if self.measured else ""

    @property
    def what(self) -> str:
        """What attacks recover of it, for people."""
        return f"{self.decides.noun}s {self.decides.verdict}"

    @property
    def labels(self) -> list[str]:
        """Every attack that was tried, in order."""
        return list(dict.fromkeys(tried.label for cell in self.cells for tried in cell.attacks))

    def attempt(self, label: str) -> list[Tried]:
        """Return one attack under every seed."""
        return [tried for cell in self.cells for tried in cell.attacks if tried.label == label]

    def victims(self, label: str) -> list[Attacked]:
        """Return everybody whom one attack attacked."""
        return [victim for tried in self.attempt(label) for victim in tried.victims]

    def unproved(self, labels: Sequence[str]) -> int:
        """Return how many victims no search of these attacks recovered, and none converged on either."""
        every = [victim for label in labels for victim in self.victims(label)]
        proved = {victim[:3] for victim in every if victim.is_evidence}
        return len({victim[:3] for victim in every} - proved)

    def shares(self, label: str) -> Victims:
        """Return the share of every victim's examples that one attack recovered."""
        return {(v.seed, v.round, v.client): v.share for v in self.victims(label)}

    def knows(self, label: str) -> tuple[Knowledge, ...]:
        """Return what an attack was granted."""
        return next((tried.knows for tried in self.attempt(label)), ())


@dataclass
class Sweep:
    """Everything that the report is about.

    Attributes:
        settings: in the order of the plan.
        problems: (run, reason) of every run without a usable record.
        environments: how many records were made in each, as JSON.
        left_out: what records themselves left out, with how often.
    """

    path: Path
    title: str
    scenario: dict[str, Any]
    digest: str
    policy: Policy
    planned: int
    judge: Judge
    settings: list[Setting] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    environments: Counter[str] = field(default_factory=Counter)
    threats: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    started: str = ""
    ended: str = ""

    @property
    def seeds(self) -> list[int]:
        """Every seed that has a record."""
        return sorted({cell.seed for setting in self.settings for cell in setting.cells})

    @property
    def runs(self) -> int:
        """Number of records that were used."""
        return sum(self.environments.values())

    def run_path(self, digest: str) -> Path:
        """Return the folder of a run."""
        return SweepFolder(self.path).run_path(digest) if (self.path / PLAN).exists() else self.path


def gather(path: Path) -> Sweep:
    """Read the folder of a sweep, or of a single run.

    Raises:
        FedsimError: it is neither.
    """
    sweep, settings = _empty(path), dict[str, Setting]()
    for planned, record in each(path):
        if isinstance(record, str):
            sweep.problems.append((planned.name or planned.digest, record))
            continue
        judge = Judge.of(record)
        sweep.judge = replace(sweep.judge, declared={**sweep.judge.declared, **record.declared})
        _note(sweep, record)
        for number, arm in enumerate(record.arms):
            setting = _setting(planned, record, arm, judge, settings)
            setting.cells.append(_cell(planned, judge, number, arm))
            sweep.threats.setdefault(setting.threat, record.threat_model)
    sweep.settings = list(settings.values())
    _name(sweep.settings)
    return sweep


def _empty(path: Path) -> Sweep:
    if (path / PLAN).exists():
        plan = SweepFolder(path).plan()
        scenario, title, digest, planned = plan.scenario, plan.title, plan.digest, len(plan.runs)
    else:
        _, record = next(each(path))
        assert isinstance(record, RunRecord)
        scenario, digest, planned = record.scenario, record.scenario_hash, 1
        title = str(scenario.get("title", "Untitled run"))
    policy = Policy.model_validate(scenario.get("policy", {}))
    declared = next((own.declared for _, own in each(path) if isinstance(own, RunRecord)), {})
    return Sweep(path, title, scenario, digest, policy, planned, Judge.reading(scenario, declared))


def _note(sweep: Sweep, record: RunRecord) -> None:
    sweep.environments[record.environment.model_dump_json()] += 1
    sweep.started = min(filter(None, (sweep.started, record.started)))
    sweep.ended = max(sweep.ended, record.ended or "")
    for arm in record.arms:
        sweep.left_out.update(failure.why for entry in arm.rounds for failure in entry.failures)
    sweep.left_out.update(failure.why for failure in record.failures)


def _setting(
    planned: PlannedRun, record: RunRecord, arm: ArmRecord, judge: Judge, settings: dict[str, Setting]
) -> Setting:
    values = {key: value for key, value in {**planned.values, **arm.values}.items() if key != "seed"}
    key = json.dumps(values)
    if key not in settings:
        scenario = with_values(record.scenario, arm.values)
        family = _family(scenario, arm, judge)
        rule = judge.rule(*arm.attacks)
        threat, data, knobs = (
            _threat(scenario, judge.server(arm)),
            _data(scenario, rule),
            dict(_numbers(scenario)),
        )
        settings[key] = Setting("", values, family, threat, data, knobs, rule, judge.deciding(*arm.attacks))
    return settings[key]


def _family(scenario: Mapping[str, Any], arm: ArmRecord, judge: Judge) -> str:
    if judge.is_unprotected(arm) and not arm.guarantees:
        return UNDEFENDED
    names = [choice["name"] for key in ("defenses", "components") for choice in scenario.get(key, ())]
    names += ["dropout"] if arm.dropout else []
    names += ["sum of updates"] if scenario.get("threat", {}).get("sees") == "sum" else []
    rule = scenario.get("aggregation", {}).get("name", "mean")
    names += [rule] if rule != "mean" else []
    return " + ".join(dict.fromkeys(names))


def _threat(scenario: Mapping[str, Any], server: str) -> str:
    seen = "the sum of a round" if scenario.get("threat", {}).get("sees") == "sum" else "single updates"
    return f"{server} that sees {seen}"


def _data(scenario: Mapping[str, Any], rule: str) -> str:
    told = (f"{value}" if key == "name" else f"{key} {value}" for key, value in scenario.get("data", {}).items())
    return ", ".join((*told, rule))


def _numbers(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Yield (dotted key, number) of everything numeric in a scenario."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _numbers(inner, f"{place}.{index}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield place, float(value)


def _cell(planned: PlannedRun, judge: Judge, number: int, arm: ArmRecord) -> Cell:
    seed = int(planned.values.get("seed", judge.seed))
    utilities = [own for entry in arm.rounds if (own := entry.utility(judge.declared)) is not None]
    attacking = sum(v.seconds for attack in arm.attacks for v in attack.victims) + sum(
        m.seconds for m in arm.membership
    )
    attacking += arm.generation.seconds if arm.generation else 0.0
    return Cell(
        digest=planned.digest,
        arm=number,
        seed=seed,
        utility=utilities[-1] if utilities else None,
        guarantees=arm.guarantees,
        audits=arm.audits,
        attacks=tuple(_attempt(attack, seed, judge) for attack in arm.attacks),
        members=tuple(
            Inferred(
                own.label,
                own.members,
                own.non_members,
                own.summary.auc,
                tuple((low.fpr, low.tpr.value) for low in own.summary.low_fpr if low.tpr is not None),
                own.summary.roc,
            )
            for own in arm.membership
            if own.summary is not None
        ),
        parameters=arm.parameters,
        seconds=max(0.0, arm.seconds - attacking),
        client_rounds=sum(len(entry.cohort) for entry in arm.rounds),
        client_cost=arm.client_cost,
        decoder=arm.generation.decoder if arm.generation else "",
        findings=arm.generation.findings if arm.generation else (),
    )


def _attempt(attack: AttackRecord, seed: int, judge: Judge) -> Tried:
    reasons = dict.fromkeys(victim.failure for victim in attack.victims if victim.failure)
    return Tried(
        attack.label,
        attack.knows,
        tuple(_attack(victim, seed, judge) for victim in attack.victims),
        _searches(attack),
        tuple(reasons),
        sum(victim.seconds for victim in attack.victims),
        judge.goal(attack),
    )


def _attack(victim: VictimRecord, seed: int, judge: Judge) -> Attacked:
    if victim.failure is not None or not victim.examples:
        return Attacked(seed, victim.round, victim.client, 0.0, {}, False, victim.ceiling)
    return Attacked(
        seed,
        victim.round,
        victim.client,
        judge.recovered(victim) / victim.examples,
        {
            name: tuple(item.values[name] for item in victim.scores if name in item.values)
            for name in dict.fromkeys(name for item in victim.scores for name in item.values)
        },
        evidence.is_evidence(victim, judge.success),
        victim.ceiling,
    )


_LATE = 0.95


def _searches(attack: AttackRecord) -> Searches:
    ended = [v for v in attack.victims if v.failure is None and v.objective is not None]
    judged = [v for v in ended if v.converged is not None]
    return Searches(
        victims=len(attack.victims),
        gave_up=sum(v.failure is not None for v in attack.victims),
        searched=len(judged),
        converged=sum(v.converged is True for v in judged),
        falling=sum(v.iterations > 1 and v.best_iteration >= _LATE * v.iterations for v in ended),
    )


def _name(settings: list[Setting]) -> None:
    """Name every setting by what differs between them; the name of a group's value says enough by itself."""
    keys = dict.fromkeys(key for setting in settings for key in setting.values)
    differing = [key for key in keys if len({json.dumps(setting.values.get(key)) for setting in settings}) > 1]
    for setting in settings:
        told = [_told(key, setting.values[key]) for key in differing if key in setting.values]
        setting.name = ", ".join(told) or (setting.family if not setting.is_undefended else UNDEFENDED)


def _told(key: str, value: Any) -> str:
    if isinstance(value, str) and "." not in key:
        return value
    return f"{key.rpartition('.')[2]} {value if isinstance(value, str) else json.dumps(value)}"
