"""attributes: infer a property of the data behind an update.

An attack infers the most frequent attribute value among the examples of every watched update. It is trained on updates
that it computes itself from public examples with known values.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from typing import Any, ClassVar, final

from pydantic import Field, model_validator

from fedsim.core.best_step import TimedConfig
from fedsim.core.errors import reason
from fedsim.core.registry import question
from fedsim.processes.methods import MethodRunner
from fedsim.questions.attributes import observe as attributes
from fedsim.questions.attributes.hooks import AttributeAttack
from fedsim.questions.base import Evidence, Question, QuestionContext
from fedsim.record import Finding
from fedsim.scenario.choices import ReportedChoice, check_reported
from fedsim.scenario.world import World


class AttributeChoice(ReportedChoice):
    """An attribute inference attack with its attribute and its name in the report."""

    base: ClassVar[type[Any]] = AttributeAttack
    attribute: str = Field(min_length=1, description="attribute to infer; `label` is the positive control")
    label: str = Field(default="", description="name in the report; attack and attribute when empty")

    @property
    def report_name(self) -> str:
        """The name in the report."""
        return self.label or f"{self.name} ({self.attribute})"


class Attributes(TimedConfig):
    """Attribute inference attacks and their number of public updates."""

    public: int = Field(
        default=64,
        ge=2,
        description="updates that the attacker computes from public examples, for each value; at most one per example",
    )
    attacks: tuple[AttributeChoice, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _labels_differ(self) -> Attributes:
        check_reported(self.attacks)
        return self


@final
@question("attributes", summary="which value has an attribute of the data behind an update?", related="1805.04049")
class AttributeQuestion(Question[Attributes]):
    """Runs attribute inference attacks, each with permuted public values as negative control."""

    metric: ClassVar[str] = "attribute_balanced_accuracy"
    title: ClassVar[str] = "What are the data like?"
    summary: ClassVar[str] = (
        "For every watched update, an attribute inference attack infers the value that most of "
        "its examples have. It learns from updates that it computes from public examples with "
        "known values, at the weights that the clients received."
    )
    method: ClassVar[str] = (
        "Each value of the attribute has equal weight; intervals are over clients. With "
        "permuted public values (negative control) an attack must be at chance; the label, if "
        "configured, is the positive control."
    )

    def describe_attacker(self) -> Iterator[str]:
        """Yield the inferred attributes and the attackers' knowledge."""
        names = ", ".join(dict.fromkeys(choice.attribute for choice in self.config.attacks))
        yield (
            f"Attacks on attributes ask of every attacked update: {names}. They know how clients train, defenses too, "
            f"and the attributes of the test set, of which they compute {self.config.public} changes for each value."
        )

    @classmethod
    def example(cls) -> Mapping[str, Any]:
        """Return the tables of a scenario with one attack."""
        return {
            "data": {"name": "digits", "test_fraction": 0.5},
            "federation": {"clients": 40, "batch_size": 1, "engine": "vectorized"},
            "threat": {"victims": 40, "keep_updates": False},
            "attributes": {"public": 8, "attacks": [{"name": "change-norms", "attribute": "parity"}]},
        }

    def check(self, world: World) -> None:
        """Check that every attribute is known and has public examples."""
        attributes.check(world, [choice.attribute for choice in self.config.attacks])

    def run(self, evidence: Evidence, work: QuestionContext) -> Iterator[Finding]:
        """Yield a finding and a control per attack; attacks on the same attribute share the public updates."""
        by_attribute: dict[str, list[AttributeChoice]] = {}
        for choice in self.config.attacks:
            by_attribute.setdefault(choice.attribute, []).append(choice)
        with ExitStack() as started:
            attacks = {choice.report_name: started.enter_context(work.start(choice)) for choice in self.config.attacks}
            for name, choices in by_attribute.items():
                yield from self._ask_one(evidence, work, name, choices, attacks)

    def _ask_one(
        self,
        evidence: Evidence,
        work: QuestionContext,
        name: str,
        choices: Sequence[AttributeChoice],
        attacks: Mapping[str, MethodRunner],
    ) -> Iterator[Finding]:
        on_change = partial(work.progress, f"{name}: changes of public examples")
        asked = {choice.report_name: attacks[choice.report_name] for choice in choices}
        begin = time.perf_counter()
        try:
            rounds = [
                attributes.describe_round(
                    evidence.world, name, tuple(entries), asked, self.config.public, on_change, work.salt
                )
                for _, entries in groupby(evidence.journal.entries, key=lambda entry: entry.round)
            ]
        except Exception as error:  # a method may raise anything
            yield from (_finding(choice).model_copy(update={"failure": reason(error)}) for choice in choices)
            return
        shared = (time.perf_counter() - begin) / len(choices)
        for choice in choices:
            yield from _score(choice, attacks[choice.report_name], rounds, evidence.world, shared)


def _finding(choice: AttributeChoice) -> Finding:
    return Finding(
        question="attributes",
        label=choice.report_name,
        method=choice.name,
        settings=choice.settings,
        scope={"attribute": choice.attribute},
        role="positive-control" if choice.attribute == attributes.LABEL else "attack",
        metric="attribute_balanced_accuracy",
    )


def _score(
    choice: AttributeChoice,
    attack: MethodRunner,
    rounds: Sequence[attributes.Descriptions],
    world: World,
    shared: float,
) -> Iterator[Finding]:
    """Yield the accuracy of an attack, and of its control with permuted public values."""
    begin, finding = time.perf_counter(), _finding(choice)
    try:
        read = attributes.score(choice.report_name, choice.attribute, attack, rounds, world)
    except Exception as error:  # a method may raise anything
        seconds = shared + time.perf_counter() - begin
        yield finding.model_copy(update={"failure": reason(error), "seconds": seconds})
        return
    left_out = {"left out": read.left_out} if read.left_out else {}
    scope = {**finding.scope, "values": len(read.values), "public": read.public, **left_out}
    known = finding.model_copy(update={"scope": scope, "chance_level": read.chance})
    seconds = shared + time.perf_counter() - begin
    yield known.model_copy(update={"value": read.right, "seconds": seconds})
    control = {
        "label": f"{choice.report_name}, values permuted",
        "role": "negative-control",
        "value": read.permuted_accuracy,
    }
    yield known.model_copy(update=control)
