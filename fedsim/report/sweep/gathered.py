"""Records of a sweep, read in sequence and grouped into settings and cells."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedsim.core.metric import Metric
from fedsim.core.result_files import SWEEP
from fedsim.core.types import Knowledge
from fedsim.experiment.sweep.folder import PlannedRun, SweepFolder
from fedsim.experiment.sweep.results import iterate_records
from fedsim.judgement.policy import Policy
from fedsim.metrics.comparison import Victims
from fedsim.record import ArmRecord, Finding, QuestionInfo, RunRecord
from fedsim.report.sweep.cells import Attacked, FindingCurve, SweepCell, Tried, cell_of
from fedsim.report.verdict import RunJudge

UNDEFENDED = "undefended"


@dataclass
class SweepSetting:
    """A setting: values set by the sweep and its arms, without the seed.

    Attributes:
        family: names of the active defenses and components, or ``undefended``.
        knobs: every number in the resolved scenario, by dotted key.
        threat: the attacker, in words.
        data: the data set and the success rule of its examples, in words.
        rule: the success rule, in words.
        decides: the metric of the success rule.
        verdict: the word for a successful example, for example "identified".
    """

    name: str
    values: dict[str, Any]
    family: str
    threat: str
    data: str
    knobs: dict[str, float]
    rule: str
    decides: Metric
    verdict: str
    cells: list[SweepCell] = field(default_factory=list)

    @property
    def is_undefended(self) -> bool:
        """Whether the clients have no protection."""
        return self.family == UNDEFENDED

    @property
    def test_metric(self) -> Metric | None:
        """Test metric of the setting's models; None if nothing was evaluated."""
        return next((cell.utility.metric for cell in self.cells if cell.utility is not None), None)

    @property
    def measure(self) -> str:
        """Title of the test metric; empty if nothing was evaluated."""
        return self.test_metric.title if self.test_metric else ""

    @property
    def recovered_noun(self) -> str:
        """Recovered examples in words, such as "images identified"."""
        return f"{self.decides.noun}s {self.verdict}"

    @property
    def labels(self) -> list[str]:
        """Labels of all attacks, in order."""
        return list(dict.fromkeys(tried.label for cell in self.cells for tried in cell.attacks))

    @property
    def findings(self) -> list[Finding]:
        """Findings of questions, over all seeds."""
        return [finding for cell in self.cells for finding in cell.findings]

    def attempt(self, label: str) -> list[Tried]:
        """Return an attack's results, an item per seed."""
        return [tried for cell in self.cells for tried in cell.attacks if tried.label == label]

    def victims(self, label: str) -> list[Attacked]:
        """Return all victims of an attack."""
        return [victim for tried in self.attempt(label) for victim in tried.victims]

    def count_unproved(self, labels: Sequence[str]) -> int:
        """Return the number of victims without evidence: no attack in `labels` recovered them or converged."""
        victims = [victim for label in labels for victim in self.victims(label)]
        proved = {victim[:3] for victim in victims if victim.is_evidence}
        return len({victim[:3] for victim in victims} - proved)

    def curves(self, label: str) -> list[FindingCurve]:
        """Return the ROC curves of a membership attack, a curve per seed."""
        return [curve for cell in self.cells for curve in cell.curves if curve.finding.label == label]

    def shares(self, label: str) -> Victims:
        """Return the recovered share of an attack for every victim on which it did not fail."""
        return {(v.seed, v.round, v.client): v.share for v in self.victims(label) if v.share is not None}

    def knows(self, label: str) -> tuple[Knowledge, ...]:
        """Return the knowledge granted to an attack."""
        return next((tried.knows for tried in self.attempt(label)), ())


@dataclass
class SweepRecords:
    """All records of a sweep.

    Attributes:
        settings: settings in the order of the plan.
        problems: (run, reason) of every run without a usable record.
        environments: number of records per environment, as JSON.
        left_out: reasons of failures inside records, with their counts.
        questions: questions in addition to attacks on updates, by name.
    """

    path: Path
    title: str
    scenario: dict[str, Any]
    digest: str
    policy: Policy
    planned_runs: int
    judge: RunJudge
    settings: list[SweepSetting] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    environments: Counter[str] = field(default_factory=Counter)
    threats: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    questions: dict[str, QuestionInfo] = field(default_factory=dict)
    started: str = ""
    ended: str = ""

    @property
    def seeds(self) -> list[int]:
        """Every seed with a record."""
        return sorted({cell.seed for setting in self.settings for cell in setting.cells})

    @property
    def seeds_in_words(self) -> str:
        """The seeds as text."""
        return ", ".join(map(str, self.seeds)) or "none"

    @property
    def runs(self) -> int:
        """Number of records used."""
        return sum(self.environments.values())

    def run_path(self, digest: str) -> Path:
        """Return the folder of a run."""
        return SweepFolder(self.path).run_path(digest) if (self.path / SWEEP).exists() else self.path


def gather(path: Path) -> SweepRecords:
    """Read the folder of a sweep, or of a single run.

    Raises:
        FedsimError: it is neither.
    """
    sweep, settings = _empty(path), dict[str, SweepSetting]()
    for planned, record in iterate_records(path):
        if isinstance(record, str):
            sweep.problems.append((planned.name or planned.digest, record))
            continue
        judge = RunJudge.of(record)
        sweep.judge = replace(sweep.judge, metrics_by_name={**sweep.judge.metrics_by_name, **record.metrics_by_name})
        _note(sweep, record)
        for number, arm in enumerate(record.arms):
            setting = _setting(planned, record, arm, judge, settings)
            setting.cells.append(cell_of(planned, judge, number, arm))
            sweep.threats.setdefault(setting.threat, record.threat_model)
    sweep.settings = list(settings.values())
    _name(sweep.settings)
    return sweep


def _empty(path: Path) -> SweepRecords:
    if (path / SWEEP).exists():
        plan = SweepFolder(path).plan()
        scenario, title, digest, planned = plan.scenario, plan.title, plan.digest, len(plan.runs)
    else:
        _, record = next(iterate_records(path))
        assert isinstance(record, RunRecord)
        scenario, digest, planned = record.plan, record.digest, 1
        title = str(scenario.get("title", "Untitled run"))
    policy = Policy.model_validate(scenario.get("policy", {}))
    declared = next(
        (record.metrics_by_name for _, record in iterate_records(path) if isinstance(record, RunRecord)), {}
    )
    return SweepRecords(path, title, scenario, digest, policy, planned, RunJudge.reading(scenario, declared))


def _note(sweep: SweepRecords, record: RunRecord) -> None:
    sweep.questions.update({question.name: question for question in record.questions})
    sweep.environments[record.environment.model_dump_json()] += 1
    sweep.started = min(filter(None, (sweep.started, record.started)))
    sweep.ended = max(sweep.ended, record.ended or "")
    for arm in record.arms:
        sweep.left_out.update(failure.reason for entry in arm.rounds for failure in entry.failures)
    sweep.left_out.update(failure.reason for failure in record.failures)


def _setting(
    planned: PlannedRun, record: RunRecord, arm: ArmRecord, judge: RunJudge, settings: dict[str, SweepSetting]
) -> SweepSetting:
    values = {key: value for key, value in {**planned.values, **arm.values}.items() if key != "seed"}
    key = json.dumps(values)
    if key not in settings:
        scenario = judge.scenario_of(arm)
        family = _family(scenario, arm, judge)
        rule = judge.rule(*arm.attacks)
        threat, data, knobs = _threat(scenario, judge.server(arm)), _data(scenario, rule), dict(_numbers(scenario))
        settings[key] = SweepSetting(
            "",
            values,
            family,
            threat,
            data,
            knobs,
            rule,
            judge.deciding_metric(*arm.attacks),
            judge.verdict(*arm.attacks),
        )
    return settings[key]


def _family(scenario: Mapping[str, Any], arm: ArmRecord, judge: RunJudge) -> str:
    if judge.is_unprotected(arm) and not arm.guarantees:
        return UNDEFENDED
    names = [choice["name"] for key in ("defenses", "components") for choice in scenario.get(key, ())]
    names += ["dropout"] if arm.dropout else []
    names += ["sum of updates"] if scenario.get("threat", {}).get("view") == "sum" else []
    rule = scenario.get("aggregation", {}).get("name", "mean")
    names += [rule] if rule != "mean" else []
    return " + ".join(dict.fromkeys(names))


def _threat(scenario: Mapping[str, Any], server: str) -> str:
    seen = "the sum of a round" if scenario.get("threat", {}).get("view") == "sum" else "single updates"
    return f"{server} that sees {seen}"


def _data(scenario: Mapping[str, Any], rule: str) -> str:
    words = (f"{value}" if key == "name" else f"{key} {value}" for key, value in scenario.get("data", {}).items())
    return ", ".join((*words, rule))


def _numbers(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Yield (dotted key, number) of all numbers in a scenario."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _numbers(inner, f"{place}.{index}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield place, float(value)


def _name(settings: list[SweepSetting]) -> None:
    """Name every setting by its differing values; a value of a key without dots is its own name."""
    keys = dict.fromkeys(key for setting in settings for key in setting.values)
    differing = [key for key in keys if len({json.dumps(setting.values.get(key)) for setting in settings}) > 1]
    for setting in settings:
        parts = [_value_in_words(key, setting.values[key]) for key in differing if key in setting.values]
        setting.name = ", ".join(parts) or (setting.family if not setting.is_undefended else UNDEFENDED)


def _value_in_words(key: str, value: Any) -> str:
    if isinstance(value, str) and "." not in key:
        return value
    return f"{key.rpartition('.')[2]} {value if isinstance(value, str) else json.dumps(value)}"
