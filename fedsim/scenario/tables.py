"""The scenario table, and checks across its tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from fedsim.core import registry
from fedsim.core.choices import Choice
from fedsim.core.registry import Kind
from fedsim.core.settings import Config, DeviceName
from fedsim.judgement.policy import Policy
from fedsim.privacy.secure_aggregation.config import SecureAggregation
from fedsim.scenario.choices import Aggregation, AttackChoice, ModelChoice
from fedsim.scenario.clients import Federation, LabelNoise, Participation, Partition
from fedsim.scenario.threat_tables import Scoring, Threat, UnlearningSettings
from fedsim.scenario.variations import Sweep, Tune, Values

_FEWEST_IN_A_SUM = 2


class Scenario(Config):
    """An experiment. `arms` declares the comparison; every combination is an arm of the run.

    An entry of `arms` is a dotted key with a list of values, or a user-defined name with a table: names of its values,
    each with the dotted keys that it sets together.
    """

    title: str = Field(min_length=1, description="short description of the comparison")
    description: str = ""
    minutes: float | None = Field(default=None, gt=0, description="expected duration on two cores")
    seed: int = Field(default=0, ge=0)
    device: DeviceName = Field(default="cpu", description="where clients train and attacks search")
    data: Choice = Choice(name="mnist5k", settings={})
    task: Choice | None = Field(default=None, description="learning task; unset: the data's task")
    partition: Partition = Partition()
    label_noise: LabelNoise | None = None
    model: ModelChoice = Field(description='a table with the name of a model of `fedsim list models`, as name = "mlp"')
    federation: Federation = Federation()
    participation: Participation = Participation()
    aggregation: Aggregation = Aggregation()
    secure_aggregation: SecureAggregation | None = None
    components: tuple[Choice, ...] = ()
    defenses: tuple[Choice, ...] = ()
    threat: Threat = Threat()
    attacks: tuple[AttackChoice, ...] = ()
    unlearning: UnlearningSettings | None = None
    questions: dict[str, Choice] = Field(
        default_factory=dict, description="further questions; in a file each is a table with the question's name"
    )
    scoring: Scoring = Scoring()
    arms: Values = Field(default_factory=dict)
    sweep: Sweep | None = None
    tune: Tune | None = None
    policy: Policy = Field(default=Policy(), description="thresholds that a report judges; does not change the run")

    @model_validator(mode="before")
    @classmethod
    def _gather_questions(cls, raw: Any) -> Any:
        """Move the questions' tables into `questions`: all unknown keys that are names of questions."""
        if not isinstance(raw, Mapping) or "questions" in raw:
            return raw
        table = cast("Mapping[str, Any]", raw)
        question_keys = [key for key in table if key not in cls.model_fields]
        known = registry.entries("question") if question_keys else {}
        questions = {key: table[key] for key in question_keys if key in known}
        own_keys = {key: value for key, value in table.items() if key not in questions}
        choices = {key: {"name": key, "settings": value} for key, value in questions.items() if value is not None}
        return {**own_keys, "questions": choices}

    @model_serializer(mode="wrap")
    def _with_tables_of_questions(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        raw = fields(self)
        if "questions" not in raw:
            return raw
        del raw["questions"]
        return {**raw, **{name: choice.settings for name, choice in self.questions.items()}}

    @field_validator("task", mode="before")
    @classmethod
    def _task_by_name(cls, raw: Any) -> Any:
        return {"name": raw} if isinstance(raw, str) else raw

    @model_validator(mode="after")
    def _consistent(self) -> Scenario:
        late = [r for r in self.threat.rounds if r > self.federation.rounds]
        if late:
            raise ValueError(
                f"threat.rounds: round {late[0]} is after the last, federation.rounds = {self.federation.rounds}"
            )
        cohort, clients = self.participation.cohort, self.federation.clients
        if cohort is not None and cohort > clients:
            raise ValueError(f"participation.cohort is {cohort}, expected at most federation.clients = {clients}")
        strangers = [client for client in self.participation.always_crash if client >= clients]
        if strangers:
            raise ValueError(
                f"participation.always_crash: unknown client {strangers[0]}, expected numbers from 0 to {clients - 1}"
            )
        if self.threat.victims > self.cohort_size:
            raise ValueError(
                f"threat.victims is {self.threat.victims}, expected at most {self.cohort_size}, the cohort"
            )
        labels = [attack.report_name for attack in self.attacks]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"attacks: two are reported as '{twice[0]}'. Set 'label' in either.")
        if self.threat.view == "sum":
            self._check_sums()
        if self.secure_aggregation is not None:
            self._check_secure_aggregation(self.secure_aggregation)
        if self.unlearning is not None:
            self._check_unlearning(self.unlearning)
        return self

    def _check_sums(self) -> None:
        if self.threat.victims > 1:
            raise ValueError(
                f"threat.victims is {self.threat.victims}, expected 1: with threat.view = 'sum' "
                "each round has a single sum over all participants"
            )
        if self.attacks and self.federation.algorithm != "fedsgd":
            raise ValueError(
                "attacks: with threat.view = 'sum' they need federation.algorithm = 'fedsgd'. The mean of gradients at "
                "the same weights is the gradient of all participants' examples; the mean of changes after local "
                "training is no gradient of anything"
            )

    def _check_secure_aggregation(self, settings: SecureAggregation) -> None:
        if self.threat.view != "sum":
            raise ValueError(
                f"threat.view is '{self.threat.view}', but behind secure aggregation the server sees no client's "
                "update, only their sum. Set threat.view = 'sum', or leave out secure_aggregation"
            )
        if settings.mode == "masked" and self.federation.engine == "vectorized":
            raise ValueError(
                "secure_aggregation.mode is 'masked', but the engine 'vectorized' trains "
                "clients together without messages, so no clients can exchange keys. Set mode "
                "= 'ideal', which gives the same sums, or federation.engine = 'local'"
            )
        if self.cohort_size < _FEWEST_IN_A_SUM:
            raise ValueError(
                "secure_aggregation: a round samples 1 client, and the sum over a single "
                "client is its update. Expected at least 2: increase federation.clients, or "
                "the cohort in participation"
            )

    def _check_unlearning(self, settings: UnlearningSettings) -> None:
        clients, settled = self.federation.clients, self.participation
        if settings.clients > clients:
            raise ValueError(f"unlearning.clients is {settings.clients}, expected at most {clients}, all clients")
        if self.federation.algorithm != "fedsgd" or self.federation.sampling != "shuffle":
            raise ValueError(
                "unlearning: the estimate of the forgotten examples needs mean gradients over "
                "known numbers of examples. Expected federation.algorithm = 'fedsgd' and "
                "federation.sampling = 'passes'"
            )
        if settled.is_eventful or settled.availability < 1 or settled.always_crash or self.cohort_size < clients:
            raise ValueError(
                "unlearning: the federation trains once more, and every client must take part in every round. Leave "
                "out participation"
            )
        if self.secure_aggregation is not None:
            raise ValueError(
                "unlearning: its second training is not masked. Leave out secure_aggregation; threat.view = 'sum' "
                "says that the server sees global models alone"
            )
        if self.threat.server == "malicious":
            raise ValueError("unlearning: is read by an honest server. Expected threat.server = 'honest-but-curious'")
        if self.scoring.ideal_attacker:
            raise ValueError(
                "scoring.ideal_attacker: is of a client's update, and with unlearning none is attacked. Leave it out"
            )

    @property
    def cohort_size(self) -> int:
        """Number of sampled clients per round: exact (fixed) or expected (poisson)."""
        settings, clients = self.participation, self.federation.clients
        if settings.fraction is not None:
            return max(1, round(settings.fraction * clients))
        return settings.cohort or clients

    @property
    def sampling_rate(self) -> float:
        """Probability that an available client is sampled in a round, under Poisson sampling."""
        return self.participation.fraction or self.cohort_size / self.federation.clients

    @property
    def every_question(self) -> list[Choice]:
        """All questions: attacks on updates if any, then the others by name."""
        attacks = [Choice(name="attacks", settings={})] if self.attacks or self.unlearning else []
        return [*attacks, *(choice for _, choice in sorted(self.questions.items()))]

    @property
    def crafting_attack(self) -> AttackChoice | None:
        """The attack that changes the clients' model; None with an honest server."""
        if self.threat.server != "malicious":
            return None
        return next(choice for choice in self.attacks if choice.crafts_model)

    @property
    def varied_keys(self) -> frozenset[str]:
        """The dotted keys that differ between arms, or between the runs of a sweep."""
        grid, runs = (self.sweep.grid, self.sweep.runs) if self.sweep is not None else ({}, ())
        entries = [*self.arms.items(), *grid.items()]
        groups = (entry for _, entry in entries if isinstance(entry, dict))
        single = (key for key, entry in entries if not isinstance(entry, dict))
        return frozenset(itertools.chain(single, *(keys for group in groups for keys in group.values()), *runs))

    def choices(self) -> Iterator[tuple[tuple[str | int, ...], Kind, Choice]]:
        """Yield (place in the file, kind, choice) of every method of the scenario."""
        yield ("data",), "dataset", self.data
        if self.task is not None:
            yield ("task",), "task", self.task
        yield ("model",), "model", self.model
        yield ("federation", "optimizer"), "component", self.federation.optimizer
        yield ("aggregation",), "aggregator", self.aggregation
        yield ("aggregation", "optimizer"), "component", self.aggregation.optimizer
        for index, choice in enumerate(self.components):
            yield ("components", index), "component", choice
        for index, choice in enumerate(self.defenses):
            yield ("defenses", index), "defense", choice
        for index, choice in enumerate(self.attacks):
            yield ("attacks", index), "attack", choice
        if self.unlearning is not None:
            yield ("unlearning", "method"), "component", self.unlearning.method
        for name, choice in self.questions.items():
            yield ("questions", name), "question", choice
