"""Questions: what somebody could learn from a federation. One question a file, registered like a method.

A scenario asks a question by a table of its name. Whatever reads results reads `Finding`s, so a new question needs no
edit elsewhere: record, terminal, pages, CSV, `[expected]`, comparison and policy have it at once.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from fedsim.core.choices import Choice
from fedsim.core.deadline import DeadlineReached, TimedConfig, check_time, limited
from fedsim.core.errors import reason
from fedsim.core.hooks import ANYTHING, Configured
from fedsim.core.processor_time import processor_seconds
from fedsim.core.registry import Kind
from fedsim.core.types import Modality, OnStep, Truth
from fedsim.federation.journal import Journal
from fedsim.processes.methods import AtWork, Start, start_here
from fedsim.processes.salt import salt_of
from fedsim.record import Finding, GuaranteeRecord, QuestionAsked, VictimRecord
from fedsim.scenario.world import World

if TYPE_CHECKING:  # these load flwr, for which a list of methods does not wait
    from flwr.app import RecordDict

    from fedsim.threat.replay import Replay

    # world, client number, content of the message, state of the client between messages -> content of the reply
    MessageHandler = Callable[[World, int, RecordDict, RecordDict], RecordDict]

ConfigT = TypeVar("ConfigT", bound=TimedConfig)


@dataclass(frozen=True)
class Evidence:
    """What a training leaves behind.

    Attributes:
        world: the scenario made real.
        journal: what the server saw.
        replays: what led to each observed update, one an entry of the journal.
        guarantees: what private methods guaranteed over the rounds that were run.
    """

    world: World
    journal: Journal
    replays: Sequence[Replay] = ()
    guarantees: Sequence[GuaranteeRecord] = ()

    @property
    def truths(self) -> list[Truth]:
        """The private side of each observed update."""
        return [replay.truth for replay in self.replays]


@dataclass
class Work:
    """Where a question does its work, and who watches.

    Attributes:
        starts: starts methods, here or in a process of their own each.
        should_stop: says that somebody asked to stop.
        on_progress: called with what is being done, its number from 1, and of how many.
        on_search: called with an attack's label, the number of the update from 1, and of how many; returns what the
            attack calls once an iteration.
        on_victim: called with that label and what became of an update.
        place: under which arrays are kept, as ``arm-0``.
        items: tables of per-example values by name, which findings refer to.
        arrays: pictures of originals and guesses by place and name.
    """

    starts: Start = start_here
    should_stop: Callable[[], bool] = lambda: False
    on_progress: Callable[[str, int, int], None] = lambda _what, _number, _of: None
    on_search: Callable[[str, int, int], OnStep] = lambda _label, _number, _of: lambda _step: None
    on_victim: Callable[[str, VictimRecord], None] = lambda _label, _victim: None
    place: str = ""
    items: dict[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def salt(self) -> bytes:
        """The secret of the run that decides the order of what attacks see; empty where the run has none."""
        return salt_of(self.starts)

    def keep(self, name: str, arrays: Mapping[str, np.ndarray]) -> str:
        """Keep arrays under a name, and return where they stand."""
        place = f"{self.place}/{name}"
        self.arrays.update({f"{place}/{key}": array for key, array in arrays.items()})
        return place

    def start(self, kind: Kind, choice: Choice) -> AbstractContextManager[AtWork]:
        """Start a method for as long as the block lasts."""
        return self.starts(kind, choice, self.should_stop)

    def progress(self, what: str, number: int, of: int) -> None:
        """Show that a step begins, or stop here if somebody asked for it or the time is over.

        Raises:
            KeyboardInterrupt: somebody asked to stop.
            DeadlineReached: no time is left.
        """
        self.on_progress(what, number, of)
        self.look_up()

    def look_up(self) -> None:
        """Stop here, between two steps, if somebody asked for it or the time is over.

        Raises:
            KeyboardInterrupt: somebody asked to stop.
            DeadlineReached: no time is left.
        """
        if self.should_stop():
            raise KeyboardInterrupt
        check_time()


class Question(Configured[ConfigT]):
    """What somebody could learn. Its config is the scenario's table of its name.

    Attributes:
        title: the question, for people.
        summary: what was compared with what, in a few sentences.
        method: how the figures are made.
        nothing: what is said where no finding stands above chance, without full stop.
        metric: name of the metric of most findings.
        watches_models: whether it reads the global model before each watched round.
        needs_public_data: whether its attacker owns the test set, or half of it.
    """

    title: ClassVar[str]
    summary: ClassVar[str] = ""
    method: ClassVar[str] = ""
    nothing: ClassVar[str] = "No attack is above chance"
    metric: ClassVar[str] = "success"
    watches_models: ClassVar[bool] = False
    needs_public_data: ClassVar[bool] = False
    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    def check(self, world: World) -> None:
        """Say before anything is trained what would stop it.

        Raises:
            ScenarioError: what it is, and what to change.
        """

    def describe_attacker(self) -> Iterator[str]:
        """Yield sentences on what its attacker knows, for the threat model."""
        yield from ()

    def message_handlers(self) -> Mapping[str, MessageHandler]:
        """Return the client-side handlers of the question's own Flower messages, by step; none by default."""
        return {}

    @abstractmethod
    def ask(self, evidence: Evidence, work: Work) -> Iterator[Finding]:
        """Yield one finding after the other, in the order in which people read them.

        An attack that fails is a finding with its `failure`; what is raised ends the run. Where the question's seconds
        are over, `work` raises at its next step, and what was yielded before counts.
        """


def answers(question: Question[Any], evidence: Evidence, work: Work) -> Iterator[Finding]:
    """Yield a question's findings until its seconds are over; then one that says so, which is undecided."""
    try:
        yield from _in_time(question.ask(evidence, work), question.config.seconds)
    except DeadlineReached:
        yield _undecided(question)


def _in_time(findings: Iterator[Finding], seconds: float | None) -> Iterator[Finding]:
    """Yield findings; the seconds count while they are made, and not what is done with them.

    Raises:
        DeadlineReached: the seconds are over.
    """
    left = seconds
    while True:
        begin = processor_seconds(is_fresh=True)
        with limited(left):
            check_time()
            finding = next(findings, None)
        if finding is None:
            return
        if left is not None:
            left = max(0.0, left - (processor_seconds(is_fresh=True) - begin))
        yield finding


def _undecided(question: Question[Any]) -> Finding:
    seconds = f"{question.config.seconds:g} processor seconds"
    return Finding(
        question=question.name,
        label="what was left",
        metric=question.metric,
        note=f"Undecided: time was up after {seconds}. Set {question.name}.seconds higher.",
        is_evidence=False,
    )


def attempted(
    work: Work, choice: Choice, findings: Callable[[AtWork], Iterator[Finding]], open_finding: Finding
) -> Iterator[Finding]:
    """Yield what an attack on evidence comes to; where it fails, a finding that says so.

    Args:
        work: starts it.
        choice: of the attack.
        findings: makes the attack at work answer, and judges the answers.
        open_finding: what is known of it before it has run.
    """
    begin = time.perf_counter()
    with work.start("evidence_attack", choice) as attack:
        try:
            yield from findings(attack)
        except Exception as error:  # a method may raise anything
            seconds = time.perf_counter() - begin
            yield open_finding.model_copy(update={"failure": reason(error), "seconds": seconds})


def describe(world: World) -> tuple[QuestionAsked, ...]:
    """Return what the questions beside attacks on updates say of themselves, for the record."""
    return tuple(
        QuestionAsked(
            name=question.name,
            title=question.title,
            summary=question.summary,
            method=question.method,
            nothing=question.nothing,
        )
        for question in world.questions
        if question.name in world.scenario.questions
    )
