"""Findings: the common record of a result of an attack or control for a question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from fedsim.record.parts import Interval, RecordModel

Role = Literal["attack", "positive-control", "negative-control", "context"]
Outcome = Literal["recovered", "withstood", "undecided", "invalid", "failed"]
Columns = Mapping[str, Sequence[Any]]
"""A table of per-example values: columns of equal length."""

ATTACKS = "attacks"  # the question with the attacked updates in its findings
SIGNIFICANT = 0.05  # error rate of a permutation test


class Finding(RecordModel):
    """A result of a question in an arm.

    Attributes:
        question: name of the question, which is the name of its table in the scenario.
        label: label of the attack, or of the compared items, for display.
        method: name of the attack; empty if no method was needed.
        settings: of the method, for display.
        scope: scope of the result by name: an attribute, a view, a client, rounds.
        role: `attack`; `positive-control`, which must succeed; `negative-control`, which must be at chance; or
            `context`, which explains the others.
        metric: metric of `value`, `chance_level` and `max_value`.
        value: measured value; None after a failure.
        chance_level: value of a blind baseline.
        max_value: the largest possible value, if it depends on the question.
        p_value: of a permutation test against chance; for a group, of a test against the other groups.
        extra_metrics: further figures, by the name of their metric.
        failure: reason of a missing value.
        invalid: reason why the value does not count, such as a negative control above chance.
        note: a sentence for people.
        is_evidence: whether a value at chance is evidence; it is not after a search that did not converge.
        alarm: urgent warning for the top of the page: a short sentence and its grounds.
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
    def _drop_defaults(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
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
        """Every figure by the name of its metric, the main figure first."""
        return {self.metric: self.value, **self.extra_metrics}

    @property
    def metric_names(self) -> Iterator[str]:
        """The name of every metric in it, again and again."""
        yield from self.figures

    @property
    def is_above_chance(self) -> bool:
        """Whether the finding is valid, its interval lies above chance, and any permutation test is significant."""
        if self.invalid or self.value is None or self.value.low is None or self.chance_level is None:
            return False
        return self.value.low > self.chance_level and (self.p_value is None or self.p_value <= SIGNIFICANT)

    @property
    def state(self) -> Outcome:
        """Outcome of the finding; without a value it has failed, without interval or chance it is undecided."""
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
        """The scope as text."""
        return ", ".join(f"{name.replace('_', '-')} {value}" for name, value in self.scope.items())


class QuestionInfo(RecordModel):
    """Description of a question, for readers of a record.

    Attributes:
        name: of the question.
        title: the question, for people.
        summary: the comparison, in a few sentences.
        method: computation of the figures.
        null_statement: text for findings without an effect.
        baseline: heading of the values with which findings are compared.
    """

    name: str
    title: str
    summary: str = ""
    method: str = ""
    null_statement: str = "No attack is above chance"
    baseline: str = "chance"
