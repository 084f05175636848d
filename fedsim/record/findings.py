"""The one shape of a result: what an attack, or a control beside it, made of a question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from fedsim.record.parts import Interval, Part

Role = Literal["attack", "positive-control", "negative-control", "context"]
Outcome = Literal["recovered", "withstood", "undecided", "invalid", "failed"]
Columns = Mapping[str, Sequence[Any]]
"""A table of per-example values: column by column, all of one length."""

ATTACKS = "attacks"  # the question whose findings hold the attacked updates
SIGNIFICANT = 0.05  # one permutation test in twenty errs


class Finding(Part):
    """One result of a question in an arm.

    Attributes:
        question: name of the question, which is the name of its table in the scenario.
        label: who found it, for people: the label of an attack, or what was compared.
        method: name of the attack; empty where none was needed.
        settings: of the method, for display.
        scope: what it is of, by name: an attribute, a view, a client, rounds.
        role: `attack`; a control that `must succeed` or must be at `chance`; or `context`, which explains the others.
        metric: what `value`, `chance` and `limit` are of.
        value: what was found; None where it failed.
        chance_level: the value of who sees nothing.
        max_value: the largest possible value, where it depends on the question.
        p_value: that the value is one of chance, where a test says so; of a group, that it differs from no other.
        extra_metrics: further figures, by the name of their metric.
        failure: why there is no value.
        invalid: why the value does not count, as where a control found what is not there.
        note: a sentence for people.
        is_evidence: whether a value at chance says something; that of a search that did not converge does not.
        alarm: what must stand above everything else: a short sentence, and what it rests on.
        seconds: wall time; differs between runs.
        items: name of the arm's table that holds the values of single examples.
    """

    question: str
    label: str
    method: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    scope: dict[str, str | int | float] = Field(default_factory=dict)
    role: Role = "attack"
    metric: str
    value: Interval | None = None
    chance_level: float | None = None
    max_value: float | None = None
    p_value: float | None = None
    extra_metrics: dict[str, Interval] = Field(default_factory=dict)
    failure: str = ""
    invalid: str = ""
    note: str = ""
    is_evidence: bool = True
    alarm: str = ""
    seconds: float = 0.0
    items: str = ""

    @model_serializer(mode="wrap")
    def _without_defaults(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        known = type(self).model_fields
        return {
            name: value
            for name, value in fields(self).items()
            if known[name].is_required() or value != known[name].get_default(call_default_factory=True)
        }

    @property
    def n(self) -> int:
        """How many units it rests on."""
        return 0 if self.value is None else self.value.n

    @property
    def figures(self) -> dict[str, Interval | None]:
        """Every figure by the name of its metric, the main one first."""
        return {self.metric: self.value, **self.extra_metrics}

    @property
    def measured(self) -> Iterator[str]:
        """The name of every metric in it, again and again."""
        yield from self.figures

    @property
    def is_above_chance(self) -> bool:
        """Whether it is valid, its interval lies above chance, and a permutation test agrees where there is one."""
        if self.invalid or self.value is None or self.value.low is None or self.chance_level is None:
            return False
        return self.value.low > self.chance_level and (self.p_value is None or self.p_value <= SIGNIFICANT)

    @property
    def state(self) -> Outcome:
        """What it says: an attack without a value failed, and one without interval or chance is undecided."""
        if self.failure:
            return "failed"
        if self.invalid:
            return "invalid"
        if self.is_above_chance:
            return "recovered"
        is_open = self.value is None or self.value.low is None or self.chance_level is None or not self.is_evidence
        return "undecided" if is_open else "withstood"

    @property
    def scope_in_words(self) -> str:
        """What it is of, for people."""
        return ", ".join(f"{name} {value}" for name, value in self.scope.items())


class QuestionInfo(Part):
    """What a question says of itself, for readers of a record.

    Attributes:
        name: of the question.
        title: the question, for people.
        summary: what was compared with what, in a few sentences.
        method: how the figures are made.
        null_statement: what is said where nothing was noticed.
    """

    name: str
    title: str
    summary: str = ""
    method: str = ""
    null_statement: str = "No attack is above chance"
