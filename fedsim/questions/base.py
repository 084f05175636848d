"""Base class and run context of questions: a question measures one privacy risk of a trained federation.

A question is one file and registered like a method. A scenario selects it by a table of the question's name. All
readers of results read `Finding`s, so a new question needs no edit elsewhere: record, terminal, pages, CSV,
expected figures, comparison and policy support it at once.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from fedsim.core.best_step import TimedConfig
from fedsim.core.choices import Choice
from fedsim.core.errors import reason
from fedsim.core.hooks import ANYTHING, ConfiguredMethod
from fedsim.core.processor_time import processor_seconds
from fedsim.core.time_budget import DeadlineReached, check_deadline, time_limit
from fedsim.core.types import Modality, OnStep, Truth
from fedsim.federation.journal import ServerLog
from fedsim.processes.methods import MethodRunner, Start, start_in_process
from fedsim.processes.salt import salt_of
from fedsim.record import Finding, GuaranteeRecord, QuestionInfo, VictimRecord
from fedsim.scenario.world import World

if TYPE_CHECKING:  # these modules import flwr, which would slow down a list of methods
    from flwr.app import RecordDict

    from fedsim.threat.replay import Replay

    # world, client number, content of the message, state of the client between messages -> content of the reply
    MessageHandler = Callable[[World, int, RecordDict, RecordDict], RecordDict]

ConfigT = TypeVar("ConfigT", bound=TimedConfig)


@dataclass(frozen=True)
class Evidence:
    """Results of a training that questions analyse.

    Attributes:
        world: the scenario's objects: data, model, task, methods.
        journal: the server's observations.
        replays: replays of the observed updates, in the journal's order.
        guarantees: privacy guarantees of private methods over the completed rounds.
    """

    world: World
    journal: ServerLog
    replays: Sequence[Replay] = ()
    guarantees: Sequence[GuaranteeRecord] = ()

    @property
    def truths(self) -> list[Truth]:
        """The ground truth of each observed update."""
        return [replay.truth for replay in self.replays]


@dataclass
class QuestionContext:
    """Run context of a question: runners, callbacks, outputs.

    Attributes:
        starts: starts a method, in this process or in a subprocess.
        should_stop: returns whether the user requested a stop.
        on_progress: called with the name of a step, its number from 1, and the number of steps.
        on_search: called with an attack's label, the update's number from 1, and the number of updates; returns the
            attack's step callback.
        on_victim: called with an attack's label and the record of an attacked update.
        place: prefix of the names of stored arrays, e.g. ``arm-0``.
        items: tables of per-example values by name, to which findings refer.
        arrays: originals and reconstructions by prefix and name.
    """

    starts: Start = start_in_process
    should_stop: Callable[[], bool] = lambda: False
    on_progress: Callable[[str, int, int], None] = lambda _what, _number, _of: None
    on_search: Callable[[str, int, int], OnStep] = lambda _label, _number, _of: lambda _step: None
    on_victim: Callable[[str, VictimRecord], None] = lambda _label, _victim: None
    place: str = ""
    items: dict[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def salt(self) -> bytes:
        """The run's secret that determines the order of an attack's candidates; empty without a secret."""
        return salt_of(self.starts)

    def keep(self, name: str, arrays: Mapping[str, np.ndarray]) -> str:
        """Store arrays under a name, and return their prefix."""
        place = f"{self.place}/{name}"
        self.arrays.update({f"{place}/{key}": array for key, array in arrays.items()})
        return place

    def start(self, choice: Choice) -> AbstractContextManager[MethodRunner]:
        """Start an attack; it ends with the block."""
        return self.starts(choice, self.should_stop)

    def progress(self, label: str, number: int, total: int) -> None:
        """Report that a step begins.

        Raises:
            KeyboardInterrupt: the user requested a stop.
            DeadlineReached: the deadline has passed.
        """
        self.on_progress(label, number, total)
        self.check_cancelled()

    def check_cancelled(self) -> None:
        """Raise if a stop was requested or the deadline has passed. Questions call it between two steps.

        Raises:
            KeyboardInterrupt: the user requested a stop.
            DeadlineReached: the deadline has passed.
        """
        if self.should_stop():
            raise KeyboardInterrupt
        check_deadline()


class Question(ConfiguredMethod[ConfigT]):
    """A measurable privacy risk. Its config is the scenario's table of the same name.

    Attributes:
        title: the question in everyday words.
        summary: the compared quantities, in a few sentences.
        method: computation of values, intervals and controls.
        null_statement: sentence, without full stop, for results without a finding above chance.
        baseline: heading of the values with which findings are compared, such as the chance level.
        metric: metric of most findings.
        watches_models: whether the question reads the global model before each watched round.
    """

    title: ClassVar[str]
    summary: ClassVar[str] = ""
    method: ClassVar[str] = ""
    null_statement: ClassVar[str] = "No attack is above chance"
    baseline: ClassVar[str] = "chance"
    metric: ClassVar[str] = "success"
    watches_models: ClassVar[bool] = False
    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    @classmethod
    def example(cls) -> Mapping[str, Any]:
        """Return the tables of the smallest scenario in which an attack answers the question.

        Tests run hostile attacks in this scenario: recorded answers, more answers than there are examples. A model,
        clients and a title are added where absent. Only a question that starts no methods has no example.
        """
        return {}

    def check(self, world: World) -> None:
        """Check the scenario before training.

        Raises:
            ScenarioError: the question is not applicable; the message gives the reason and the fix.
        """

    def describe_attacker(self) -> Iterator[str]:
        """Yield sentences on the attacker's knowledge, for the threat model."""
        yield from ()

    def message_handlers(self) -> Mapping[str, MessageHandler]:
        """Return the client-side handlers of the question's own Flower messages, by step; none by default."""
        return {}

    @abstractmethod
    def run(self, evidence: Evidence, work: QuestionContext) -> Iterator[Finding]:
        """Yield findings in the order of the report.

        A failed attack is a finding with its `failure`; an exception ends the run. After the question's seconds, `work`
        raises at its next step, and the findings yielded so far count.
        """


def answers(question: Question[Any], evidence: Evidence, work: QuestionContext) -> Iterator[Finding]:
    """Yield a question's findings; after its time limit, a last, undecided finding."""
    try:
        yield from _limit_time(question.run(evidence, work), question.config.seconds)
    except DeadlineReached:
        yield _undecided_finding(question)


def _limit_time(findings: Iterator[Finding], seconds: float | None) -> Iterator[Finding]:
    """Yield findings; the limit counts the CPU time of the question, without the CPU time of the caller.

    Raises:
        DeadlineReached: the CPU time limit is exceeded.
    """
    left = seconds
    while True:
        begin = processor_seconds(is_fresh=True)
        with time_limit(left):
            check_deadline()
            finding = next(findings, None)
        if finding is None:
            return
        if left is not None:
            left = max(0.0, left - (processor_seconds(is_fresh=True) - begin))
        yield finding


def _undecided_finding(question: Question[Any]) -> Finding:
    seconds = f"{question.config.seconds:g} processor seconds"
    return Finding(
        question=question.name,
        label="what was left",
        metric=question.metric,
        note=f"Undecided: time was up after {seconds}. Set {question.name}.seconds higher.",
        is_evidence=False,
    )


def run_or_fail(
    work: QuestionContext, choice: Choice, findings: Callable[[MethodRunner], Iterator[Finding]], open_finding: Finding
) -> Iterator[Finding]:
    """Yield the findings of an attack on evidence; after an exception, a finding with the failure.

    Args:
        work: starts the attack.
        choice: the attack and its settings.
        findings: calls the running attack and scores its answers.
        open_finding: the finding's fields that are known before the attack runs.
    """
    begin = time.perf_counter()
    with work.start(choice) as attack:
        try:
            yield from findings(attack)
        except Exception as error:  # a method may raise anything
            seconds = time.perf_counter() - begin
            yield open_finding.model_copy(update={"failure": reason(error), "seconds": seconds})


def describe(world: World) -> tuple[QuestionInfo, ...]:
    """Return the record's descriptions of the scenario's questions, attacks on updates excluded."""
    asked = (question for question in world.questions if question.name in world.scenario.questions)
    return tuple(info_of(question.name, type(question)) for question in asked)


def info_of(name: str, question: type[Question[Any]]) -> QuestionInfo:
    """Return the record's description of a question with this name."""
    return QuestionInfo(
        name=name,
        title=question.title,
        summary=question.summary,
        method=question.method,
        null_statement=question.null_statement,
        baseline=question.baseline,
    )
