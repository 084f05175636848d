"""Evaluation of unmaskers on lists, puzzles and sentences, with an exact or a trained model: accuracy and cost.

Kang et al. 2025, arXiv 2510.04767. An answer is correct if the operation allows it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple, Protocol

from torch import nn

from fedsim.bench import written
from fedsim.bench.puzzles import PUZZLES
from fedsim.bench.rewordings import REWORDINGS
from fedsim.bench.sentences import SENTENCES
from fedsim.bench.table_model import TableModel
from fedsim.core import registry, seeding
from fedsim.core.hooks import GenerationInputs
from fedsim.core.types import Generated, Limits
from fedsim.data._lists import LETTERS, ListTokenizer, Sample, draw_sample
from fedsim.generation import generate
from fedsim.metrics.statistics import Interval, wilson

_END = LETTERS
GOOD = 0.8  # accuracy above which a number of tokens per pass counts as achieved
OTHERS = {**PUZZLES, **SENTENCES, **REWORDINGS}
"""Problems other than list operations: only for exact models."""


class Problem(Protocol):
    """A problem: an operation on a list, a puzzle, or a sentence."""

    @property
    def operation(self) -> str:
        """Name of the operation."""
        ...

    def answers(self) -> Iterator[tuple[int, ...]]:
        """Yield each answer once."""
        ...

    def is_answer(self, given: Sequence[int]) -> bool:
        """Return whether this is an answer."""
        ...


@dataclass(frozen=True)
class Strategy:
    """An unmasker with settings.

    Attributes:
        label: readable name.
        name: name of the unmasker.
        settings: settings of the unmasker.
        positions_per_step: positions per step of a fixed schedule; None for other unmaskers.
    """

    label: str
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    positions_per_step: int | None = None

    def make(self, places: int) -> Any:
        """Build the unmasker for answers with `places` positions."""
        method = registry.get("component", self.name)
        steps = {} if self.positions_per_step is None else {"steps": -(-places // self.positions_per_step)}
        return method.make(method.config.model_validate({**self.settings, **steps})).with_name(self.name)


def usual(at_once: Sequence[int]) -> list[Strategy]:
    """Return fixed schedules, sampled in random order and greedy by confidence, a threshold and a factor."""
    random_order = {"temperature": 1.0, "confidence": "random"}
    return [
        *(Strategy(f"fixed, {count} a step, random order, T = 1", "fixed", random_order, count) for count in at_once),
        *(Strategy(f"fixed, {count} a step, surest first", "fixed", {}, count) for count in at_once),
        Strategy("threshold 0.9", "threshold", {"threshold": 0.9}),
        Strategy("factor 1.0", "factor", {"factor": 1.0}),
    ]


def grid(places: int) -> list[Strategy]:
    """Return the published grid at temperature 0, for answers of `places` positions and each block size."""
    blocks = [length for length in (1, 2, 4, 8, 16, 32) if length <= places and places % length == 0]
    strategies: list[Strategy] = []
    for block in blocks:
        for confidence in ("random", "drawn", "margin", "entropy"):
            for at_once in (count for count in (1, 2, 4, 8, 16, 32) if count <= block):
                settings = {"block": block, "confidence": confidence}
                strategies.append(Strategy(f"fixed {at_once}, {confidence}, block {block}", "fixed", settings, at_once))
        for at_once in (count for count in (1, 2, 4, 8, 16, 32) if count <= block):
            for name in ("running-confidence", "remdm"):
                strategies.append(Strategy(f"{name} {at_once}, block {block}", name, {"block": block}, at_once))
        for parameter in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
            strategies.append(
                Strategy(f"threshold {parameter}, block {block}", "threshold", {"block": block, "threshold": parameter})
            )
        for parameter in (0.7, 1.0, 1.3, 1.6, 1.9):
            strategies.append(
                Strategy(f"factor {parameter}, block {block}", "factor", {"block": block, "factor": parameter})
            )
    return strategies


class Solver(ABC):
    """Answers problems: selects the model of each problem, and encodes prompts and answers."""

    @abstractmethod
    def groups(self, samples: Sequence[Problem]) -> Iterator[tuple[nn.Module, Sequence[Problem], int]]:
        """Yield models with the problems that they answer together, and the number of positions per answer."""

    @abstractmethod
    def prompt(self, sample: Problem) -> tuple[int, ...]:
        """Return the model's prompt."""

    @abstractmethod
    def parse_list(self, answer: Sequence[int]) -> Sequence[int] | None:
        """Return the list that an answer encodes; None if invalid."""


@dataclass(frozen=True)
class Exact(Solver):
    """Exact model of each list.

    Attributes:
        places: positions per answer, padded with end tokens like a network's answers; None: no padding.
    """

    places: int | None = None

    def groups(self, samples: Sequence[Problem]) -> Iterator[tuple[nn.Module, Sequence[Problem], int]]:
        """Yield a model for each list."""
        for sample in samples:
            known = [self.spell_answer(answer) for answer in sample.answers()]
            places = self.places or max(map(len, known))
            whole = [(*answer, *[self.end] * (places - len(answer))) for answer in known]
            vocabulary = self.end + any(len(answer) < places for answer in known)
            yield TableModel(whole, vocabulary), [sample], places

    def prompt(self, sample: Problem) -> tuple[int, ...]:
        """Return an empty prompt, since the model knows its list."""
        return ()

    def parse_list(self, answer: Sequence[int]) -> Sequence[int] | None:
        """Return the tokens before the first end token; None if others follow it."""
        count = next((place for place, token in enumerate(answer) if token == self.end), len(answer))
        return answer[:count] if set(answer[count:]) <= {self.end} else None

    @property
    def end(self) -> int:
        """The end token of an answer."""
        return _END

    def spell_answer(self, answer: Sequence[int]) -> Sequence[int]:
        """Return the tokens of an answer, without end tokens."""
        return answer


@dataclass(frozen=True)
class SpelledLists(Exact):
    """Exact model of each list of names, in the benchmark's format, a token per character.

    Attributes:
        strict: whether brackets, quotes and spaces must be exact.
    """

    strict: bool = False

    @property
    def end(self) -> int:
        """The end token of an answer."""
        return len(written.SIGNS)

    def spell_answer(self, answer: Sequence[int]) -> Sequence[int]:
        """Return the characters of the list."""
        return written.encode(written.write_list(answer))

    def parse_list(self, answer: Sequence[int]) -> Sequence[int] | None:
        """Return the list that characters encode; None if invalid."""
        signs = super().parse_list(answer)
        return None if signs is None else written.read_list(written.decode(signs), strict=self.strict)


@dataclass(frozen=True)
class Network(Solver):
    """A trained model; its answers to short lists are padded with end tokens."""

    model: nn.Module
    tokenizer: ListTokenizer = field(default_factory=ListTokenizer)

    def groups(self, samples: Sequence[Problem]) -> Iterator[tuple[nn.Module, Sequence[Problem], int]]:
        """Yield the model with all problems."""
        yield self.model, samples, self.tokenizer.answer_length

    def prompt(self, sample: Problem) -> tuple[int, ...]:
        """Return the prompt of a list operation."""
        assert isinstance(sample, Sample), "no small model reads anything else"
        return tuple(self.tokenizer.prompt(sample))

    def parse_list(self, answer: Sequence[int]) -> Sequence[int] | None:
        """Return the letters before the end tokens."""
        return self.tokenizer.parse_list(answer)


class Answered(NamedTuple):
    """An answer: correctness, cost, and rank correlation of steps with positions."""

    is_right: bool
    places: int
    passes: int
    positions: int
    left_to_right: float


@dataclass(frozen=True)
class Measured:
    """Results of a strategy on an operation."""

    operation: str
    strategy: Strategy
    answers: tuple[Answered, ...]

    @property
    def accuracy(self) -> Interval:
        """Share of correct answers, with 95 % confidence interval."""
        return wilson(sum(answer.is_right for answer in self.answers), len(self.answers))

    @property
    def tokens_a_pass(self) -> float:
        """Positions over passes, of all answers together."""
        return sum(answer.places for answer in self.answers) / sum(answer.passes for answer in self.answers)

    @property
    def left_to_right(self) -> float:
        """Mean rank correlation of step and position: 1 from left to right, 0 without order."""
        return sum(answer.left_to_right for answer in self.answers) / len(self.answers)


def draw(operation: str, lengths: Sequence[int], count: int, seed: int) -> Sequence[Problem]:
    """Sample lists of an operation, with each length equally often; or puzzles or sentences, with their own lengths."""
    if operation not in OTHERS:
        return draw_samples(operation, lengths, count, seed)
    generator = seeding.generator(seed, f"parallel {operation}")
    return [OTHERS[operation](operation, generator) for _ in range(count)]


def draw_samples(operation: str, lengths: Sequence[int], count: int, seed: int) -> list[Sample]:
    """Sample lists of an operation, with each length equally often."""
    generator = seeding.generator(seed, f"parallel {operation}")
    return [draw_sample(operation, lengths[number % len(lengths)], generator) for number in range(count)]


def measure(strategy: Strategy, solver: Solver, samples: Sequence[Problem], seed: int) -> Measured:
    """Answer the problems of an operation by a strategy."""
    answers: list[Answered] = []
    for model, group, places in solver.groups(samples):
        method, numbers = strategy.make(places), [(len(answers) + number,) for number in range(len(group))]
        texts = generate(
            method,
            model,
            GenerationInputs(tuple(map(solver.prompt, group))),
            Limits(max_new_tokens=places),
            seeding.generators(seed, f"answering {group[0].operation}", numbers),
            batch_size=32,
        )
        answers += [_score_answer(sample, text, solver) for sample, text in zip(group, texts, strict=True)]
    return Measured(samples[0].operation, strategy, tuple(answers))


def best(measured: Sequence[Measured]) -> float | None:
    """Return the most tokens per pass among strategies of sufficient accuracy; None if absent."""
    return max(
        (measurement.tokens_a_pass for measurement in measured if measurement.accuracy.value >= GOOD), default=None
    )


def oracle(measured: Sequence[Measured]) -> tuple[float, float]:
    """Return the share of problems solved by any strategy, and the tokens per pass with the best for each."""
    by_sample = list(zip(*(measurement.answers for measurement in measured), strict=True))
    right_ones = [[answer for answer in answers if answer.is_right] for answers in by_sample]
    right = [min(answers, key=lambda answer: answer.passes) for answers in right_ones if answers]
    passes = sum(answer.passes for answer in right)
    return len(right) / len(by_sample), sum(answer.places for answer in right) / passes if passes else 0.0


def _score_answer(sample: Problem, text: Generated, solver: Solver) -> Answered:
    letters = solver.parse_list(text.tokens)
    steps = [(place, number) for number, step in enumerate(text.trace.places) for place in step]
    return Answered(
        is_right=letters is not None and sample.is_answer(letters),
        places=len(text.tokens),
        passes=len(text.trace.tokens),
        positions=sum(text.trace.series().get("positions", ())),
        left_to_right=_agreement(steps),
    )


def _agreement(pairs: Sequence[tuple[int, int]]) -> float:
    """Return Kendall's tau-b of positions (all distinct) and steps; 0 if all are in a single step."""
    joined = list(combinations(pairs, 2))
    signs = [_sign(second - place) * _sign(position - step) for (place, step), (second, position) in joined]
    differing = sum(sign != 0 for sign in signs)
    return sum(signs) / (len(joined) * differing) ** 0.5 if differing else 0.0


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)
