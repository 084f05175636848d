"""What a trained model wrote, and what its traces gave away."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from fedsim.core.types import Ending, Question
from fedsim.record.parts import Interval, Part

Role = Literal["attack", "must succeed", "chance"]


def _read(series: Any) -> Any:
    return tuple(map(int, series.split())) if isinstance(series, str) else series


def _write(series: tuple[int, ...]) -> str:
    return " ".join(map(str, series))


Series = Annotated[tuple[int, ...], BeforeValidator(_read), PlainSerializer(_write, return_type=str)]
"""Integers, step by step; a text in JSON, where each would take a line."""


class TraceRecord(Part):
    """One text: for which question it was written and about what, its tokens a step, and the counts of its steps.

    `about` is the number of its prompt, of its candidate or of its secret.
    """

    question: Question
    about: int
    ending: Ending
    tokens: Series
    counts: dict[str, Series]


class TraceFinding(Part):
    """What one attack made of one view of the traces.

    `role` tells attacks from controls: what must succeed, and what must be at `chance`. `p` is that of a permutation
    test, where there was one. `longer` and `larger` say how many times the steps, and the tokens sent, a mitigation
    needs. `more` holds further figures by name.
    """

    question: Question
    label: str
    name: str
    settings: dict[str, Any]
    view: str
    mitigation: str = ""
    role: Role = "attack"
    metric: str
    found: Interval | None = None
    chance: float | None = None
    p: float | None = None
    more: dict[str, Interval] = Field(default_factory=dict)
    longer: float | None = None
    larger: float | None = None
    failure: str | None = None


class GenerationRecord(Part):
    """What the trained model of an arm wrote with a decoder, and what that gave away.

    `endings` counts texts by what ended them; `reasons` holds what failed ones said, each once.
    """

    decoder: str
    settings: dict[str, Any]
    model: str
    texts: int
    tokens_a_step: Interval | None = None
    endings: dict[str, int]
    reasons: tuple[str, ...] = ()
    traces: tuple[TraceRecord, ...] = ()
    findings: tuple[TraceFinding, ...] = ()
    failure: str | None = None
    seconds: float = Field(default=0.0, description="wall time of the texts; differs between runs")
