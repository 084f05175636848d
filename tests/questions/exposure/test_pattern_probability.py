"""The probability that a model writes any string of a pattern, against the enumeration of all its texts."""

import itertools
import math
import re
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import GenerationContext, GenerationInputs, TextState, WeightedDecoder
from fedsim.core.types import Config, Event, Planted
from fedsim.data._tokenizer import WordTokenizer
from fedsim.questions.exposure.pattern_probability import PatternProbability, emission, emissions, pattern_of
from tests.components.decoder.lettered import END, Letters, Table, probability

LONGEST = 4


def enumerated(pattern: str, longest: int = LONGEST) -> float:
    """The probability that a text behind 'c' begins with a match, by all texts of as many tokens."""
    total = 0.0
    for own in itertools.product(range(6), repeat=longest):
        text = Letters().decode(list(itertools.takewhile(lambda token: token != END, own)))
        if re.match(pattern, text):
            total += probability(own, 2)
    return total


def estimate(pattern: str, runs: int, particles: int = 5, seed: int = 0, longest: int = LONGEST) -> PatternProbability:
    sources = seeding.generators(seed, "emission", [(run,) for run in range(runs)])
    return emission(Table(), Letters(), "c", pattern, longest, sources, particles=particles)


@pytest.mark.parametrize("particles", [1, 5])
@pytest.mark.parametrize("pattern", ["[12]{3}", "a[12]b|b", "c1(a|b)[12]"])
def test_the_mean_of_the_runs_is_the_enumerated_probability(pattern: str, particles: int) -> None:
    expected, found = enumerated(pattern), estimate(pattern, 150, particles)
    values = torch.tensor(found.estimates, dtype=torch.double)
    assert 0 < expected < 0.5
    assert abs(float(values.mean()) - expected) <= 4 * float(values.std()) / math.sqrt(150)
    assert found.calls > 150
    assert 150 <= found.rows <= 150 * particles * LONGEST


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["[12]{3}", "a[12]b|b", "c1(a|b)[12]"])
def test_the_mean_of_many_runs_is_the_enumerated_probability(pattern: str) -> None:
    expected, values = enumerated(pattern), torch.tensor(estimate(pattern, 2000, seed=1).estimates, dtype=torch.double)
    assert abs(float(values.mean()) - expected) <= 4 * float(values.std()) / math.sqrt(2000)


def test_what_is_longer_than_the_longest_counts_as_not_written() -> None:
    assert set(estimate("[12]{4}", 3, longest=3).estimates) == {0.0}
    assert enumerated("[12]{4}", 3) == 0


def test_a_token_may_reach_beyond_the_string() -> None:
    """With the words 'ab' and 'a' as tokens, both begin with a; the text of 'ab' does not end there."""
    tokenizer = WordTokenizer(["ab", "a"])

    class Even(nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            scores = torch.full((*tokens.shape, tokenizer.vocabulary), -50.0)
            scores[..., [258, 259, ord("x")]] = 0.0
            return scores

    sources = seeding.generators(0, "emission", [(run,) for run in range(200)])
    emitted = emission(Even(), tokenizer, "x", "a", 1, sources)
    assert sum(emitted.estimates) / 200 == pytest.approx(2 / 3, abs=0.1)  # standard error below 0.02


def test_the_interval_holds_the_truth_and_the_form_of_a_secret_becomes_a_pattern() -> None:
    own = estimate("[12]{3}", 60).interval(np.random.default_rng(0))
    assert own.low <= enumerated("[12]{3}") <= own.high
    assert own.n == 60
    pattern = pattern_of(" ###-?.")
    assert re.fullmatch(pattern, " 123-x.")
    assert not re.fullmatch(pattern, " 123-x:")
    assert not re.fullmatch(pattern, " 12a-x.")


def test_runs_are_the_same_for_the_same_seed_and_the_model_is_left_as_it_was() -> None:
    model = Table().train()
    sources = seeding.generators(0, "emission", [(run,) for run in range(10)])
    emitted = emission(model, Letters(), "c", "[12]{2}", 3, sources)
    assert model.training
    assert emitted == emission(
        model, Letters(), "c", "[12]{2}", 3, seeding.generators(0, "emission", [(run,) for run in range(10)])
    )
    alone = [
        emission(model, Letters(), "c", "[12]{2}", 3, [generator])
        for generator in seeding.generators(0, "emission", [(9,)])
    ]
    assert alone[0].estimates[0] == emitted.estimates[9]


@dataclass(frozen=True)
class Waiting(TextState):
    """Texts, and how many steps each still takes."""

    left: tuple[int, ...]


class Knowing(WeightedDecoder[Config, Waiting]):
    """Says after as many steps as a row's place what it was told: 1 over the number of particles."""

    counts: ClassVar[frozenset[str]] = frozenset({"calls", "rows"})
    particles = 0

    @classmethod
    def within(cls, pattern: str, particles: int) -> Self:
        assert pattern == r"(?:ab)[\s\S]*"
        own = cls(Config())
        own.particles = particles
        return own

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Waiting:
        return Waiting(condition.prompts, left=tuple(range(len(condition))))

    def step(self, model: nn.Module, state: Waiting, context: GenerationContext) -> tuple[Waiting, list[Event]]:
        assert len(context.generators) == len(state)
        return replace(state, left=tuple(own - 1 for own in state.left)), [Event(calls=2, rows=1)] * len(state)

    def log_evidence(self, state: Waiting) -> list[float | None]:
        return [None if own else -math.log(self.particles) for own in state.left]


def test_any_registered_decoder_that_weighs_its_texts_is_asked(own_methods: None) -> None:
    registry.component("knowing", summary="weighs nothing")(Knowing)
    sources = seeding.generators(0, "emission", [(run,) for run in range(3)])
    emitted = emission(Table(), Letters(), "c", "ab", 3, sources, particles=4, decoder="knowing")
    assert emitted == PatternProbability((0.25,) * 3, calls=2 * (1 + 2), rows=1 + 2)
    with pytest.raises(FedsimError, match="decoder: 'greedy' does not weigh its texts"):
        emission(Table(), Letters(), "c", "ab", 3, sources, decoder="greedy")


@pytest.mark.parametrize(
    ("beginning", "pattern", "reason"),
    [("", "a", "needs a prefix"), ("c", "(", "no regular expression"), ("c", "(?!)", "no text satisfies")],
)
def test_what_cannot_be_estimated_is_refused(beginning: str, pattern: str, reason: str) -> None:
    with pytest.raises(FedsimError, match=reason):
        emission(Table(), Letters(), beginning, pattern, 3, [torch.Generator()])


def test_secrets_of_one_beginning_and_form_share_their_estimates() -> None:
    alike, other = Planted("canary", "c12", (), "c", "##"), Planted("canary", "a12", (), "a", "##")
    first, second, third = emissions(Table(), Letters(), [alike, alike, other], 4, seed=1)
    assert first == second != third
    assert len(first) == 4


def test_the_estimates_of_a_secrets_form_are_the_enumerated_probability() -> None:
    (found,) = emissions(Table(), Letters(), [Planted("canary", "c12", (), "c", "##")], 150, seed=1)
    values = torch.tensor(found, dtype=torch.double)
    assert abs(float(values.mean()) - enumerated("[12]{2}")) <= 4 * float(values.std()) / math.sqrt(150)
