"""A question whose seconds are over: what was found counts, and the rest is undecided."""

import time
from collections.abc import Iterator
from typing import Any, ClassVar, final

import pytest

from fedsim.core import registry
from fedsim.core.best_step import TimedConfig
from fedsim.core.time_budget import DeadlineReached, seconds_left, time_limit
from fedsim.questions.base import Evidence, Question, QuestionContext, answers
from fedsim.record import Finding, Interval


@pytest.fixture(autouse=True)
def processor(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The processor's clock, which moves when it is moved."""
    monkeypatch.setattr(time, "process_time", lambda: sum(clock))
    clock = [0.0]
    return clock


@final
class Slow(Question[TimedConfig]):
    """Needs a second for each of five parts, and catches whatever a part raises."""

    def __init__(self, config: TimedConfig, clock: list[float]) -> None:
        super().__init__(config)
        self.clock = clock

    title: ClassVar[str] = "Slow"
    metric: ClassVar[str] = "auc"

    def run(self, evidence: Evidence, work: QuestionContext) -> Iterator[Finding]:
        for number in range(5):
            value = Interval(value=1.0, low=0.9, high=1.0, n=1)
            finding = Finding(question="slow", label=str(number), metric="auc", value=value)
            try:
                self.clock.append(1.0)
                work.check_cancelled()
            except Exception:
                finding = finding.model_copy(update={"failure": "a deadline is no failure of a method"})
            yield finding


def findings_of(seconds: float | None, clock: list[float]) -> Iterator[Finding]:
    evidence: Any = None
    for finding in answers(Slow(TimedConfig(seconds=seconds), clock).with_name("slow"), evidence, QuestionContext()):
        yield finding
        clock.append(10.0)  # what is done with a finding is not the question's time
        assert seconds_left() == float("inf")


@pytest.mark.parametrize("seconds", [None, 5.5])
def test_with_time_enough_every_part_is_asked(seconds: float | None, processor: list[float]) -> None:
    assert [finding.label for finding in findings_of(seconds, processor)] == list("01234")


def test_what_was_found_in_time_counts_and_the_rest_is_undecided(processor: list[float]) -> None:
    *before, last = findings_of(2.5, processor)
    assert [finding.label for finding in before] == ["0", "1"]
    assert not any(finding.failure for finding in before)
    assert (last.label, last.state, last.value, last.metric) == ("what was left", "undecided", None, "auc")
    assert last.note == "Undecided: time was up after 2.5 processor seconds. Set slow.seconds higher."


def test_every_question_takes_seconds_and_names_a_metric() -> None:
    for name, method in registry.methods("question").items():
        assert issubclass(method.config, TimedConfig), name
        question = method.derived_from(Question)
        assert registry.find_metrics([question.metric]), name


def test_work_stops_between_two_steps_where_no_time_is_left() -> None:

    with time_limit(0.0), pytest.raises(DeadlineReached):
        QuestionContext().progress("a step", 1, 1)
    QuestionContext().progress("a step", 1, 1)
    assert not issubclass(DeadlineReached, Exception)
