"""cntp: where the model is uncertain, samples several continuations of the clause and keeps the most likely.

Idea: entropy shows where a sample may go wrong; there, trials are compared by perplexity; elsewhere one token is
    sampled.
Equation: N = int(n + (m - n) clamp((H - low) / (high - low), 0, 1)), H = -sum_v p_v ln p_v; of N trials w sampled from
    p the trial with the smallest exp(-mean_t ln p(w_t)) is kept, the first in a tie; n, m: minimum and maximum number
    of trials.
Assumes: a causal language model; nonempty prompts; a tokenizer, which determines the ends of clauses.
Leaks: memorised text is generated without trials, and the chosen trial is biased towards it; the trace shows trials,
    proposed tokens and model rows of each step.
Fails: without a tokenizer trials end only at stop tokens and at their maximum length; scores that are not finite end
    the row.
Source: Wang et al. 2025, arXiv 2507.03038, algorithm 1; the default number of trials follows its published code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fedsim.components.decoder._drafting import DraftedTexts
from fedsim.components.decoder._drawing import draw, nucleus
from fedsim.components.decoder._look_ahead import LookAhead
from fedsim.core.hooks import Decoder, GenerationContext, GenerationInputs
from fedsim.core.registry import component
from fedsim.core.types import Config, Event, Tokenizer

_OF_DRAWS = ("top_p", "min_trials", "max_trials", "by", "entropy_of")
SIGNS = ".,\n?!:;)]}"


class CntpConfig(Config):
    """Settings of cautious next token prediction."""

    temperature: float = Field(default=0.8, ge=0, description="T of the draws; 0: the likeliest token, without trials")
    top_p: float = Field(default=0.9, gt=0, le=1, description="share p of the probability that draws come from")
    min_trials: int = Field(default=1, ge=1, description="trials at entropy `low` and below")
    max_trials: int = Field(default=10, ge=1, description="trials at entropy `high` and above")
    low: float = Field(default=0.01, ge=0, description="entropy in nats up to which `min_trials` trials are written")
    high: float = Field(default=1.5, gt=0, description="entropy in nats from which `max_trials` trials are written")
    form: Literal["code", "paper"] = Field(default="code", description="rule of the published code, or of the paper")
    by: Literal["entropy", "nothing", "certainty"] = Field(
        default="entropy",
        description=(
            "quantity that increases the number of trials N; controls: nothing: always `max_trials`;"
            " certainty: max_trials + 1 - N"
        ),
    )
    entropy_of: Literal["drawn", "raw"] = Field(
        default="drawn", description="the distribution that is drawn from, or the model's own, before T and p"
    )
    ends: Literal["signs", "endings"] | tuple[int, ...] = Field(
        default="signs",
        description="end of a trial: a punctuation mark that is a separate token; any token that ends in a punctuation "
        "mark; or the listed tokens",
    )
    longest: int = Field(default=64, ge=1, description="tokens of a trial, at most")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low} and high {self.high}: expected low below high.")
        if self.min_trials > self.max_trials:
            raise ValueError(
                f"min_trials is {self.min_trials} and max_trials {self.max_trials}: expected at most as many."
            )
        of_draws = [name for name in _OF_DRAWS if name in self.model_fields_set]
        if self.temperature == 0 and of_draws:
            raise ValueError(
                f"at temperature 0 nothing is drawn, so that '{of_draws[0]}' has no meaning. Leave it out, or raise "
                "the temperature."
            )
        return self


class Branching(NamedTuple):
    """A step's comparison: entropy in nats, trials, the perplexity of each, and the index of the chosen trial."""

    entropy: float
    trials: tuple[tuple[int, ...], ...]
    perplexities: tuple[float, ...]
    chosen_trial: int


@dataclass(frozen=True)
class Cautious(DraftedTexts):
    """Texts, and the comparison of each in the last step.

    Attributes:
        last: None before the first step.
        ahead: key-value cache of the texts and their trials.
    """

    last: tuple[Branching | None, ...]
    ahead: LookAhead = field(default_factory=LookAhead, kw_only=True, compare=False, repr=False)


@dataclass
class _Trial:
    """A trial under construction: row index, tokens, their negative log-probability, and maximum length."""

    row: int
    room: int
    tokens: list[int] = field(default_factory=list)
    cost: float = 0.0
    is_ended: bool = False

    @property
    def perplexity(self) -> float:
        return math.exp(self.cost / len(self.tokens))

    def take(self, token: int, probability: float, ends: frozenset[int]) -> None:
        self.tokens.append(token)
        self.cost -= math.log(probability)
        self.is_ended = token in ends or len(self.tokens) >= self.room


@final
@component(
    "cntp",
    summary="decoder: trials where the model is unsure, the likeliest stays",
    tier="research",
    paper="2507.03038",
    fidelity="variant",
    deviates="a trial has at most `longest` tokens, 64 by default; the number of trials follows the published code",
    paper_steps=(
        ("number of trials from the entropy", "trials_at"),
        ("a trial ends at a sign", "Cntp._trials"),
        ("the trial of the smallest perplexity stays", "Cntp.step"),
    ),
)
class Cntp(Decoder[CntpConfig, Cautious]):
    """Generates a token per step where the model is confident, else a whole trial."""

    counts: ClassVar[frozenset[str]] = frozenset({"proposed", "accepted", "trials", "rows"})

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Cautious:
        """Return the prompts."""
        return Cautious(condition.prompts, tuple(map(len, condition.prompts)), (None,) * len(condition))

    def step(self, model: nn.Module, state: Cautious, context: GenerationContext) -> tuple[Cautious, list[Event]]:
        """Append a token or the best trial to each row.

        Raises:
            GenerationError: scores of some rows are not finite, after the text or after a trial.
        """
        rows = range(len(state))
        raw = state.ahead.scores(model, state.tokens, rows, len(rows)).scores
        odds = self._odds(raw)
        entropies = _entropies(odds if self.config.entropy_of == "drawn" else raw.double().softmax(-1))
        of_rows = [
            [
                _Trial(row, 1 if count == 1 else 1 + state.room(row, context, self.config.longest - 1))
                for _ in range(count)
            ]
            for row, count in zip(rows, map(self._trials, entropies), strict=True)
        ]
        trials = [trial for chunk in of_rows for trial in chunk]
        self._take(trials, odds[[trial.row for trial in trials]], context)
        shown = [1 for _ in rows]
        while open_ones := [trial for trial in trials if not trial.is_ended]:
            texts = [(*state.tokens[trial.row], *trial.tokens) for trial in open_ones]
            answers = state.ahead.scores(model, texts, [trial.row for trial in open_ones], len(rows))
            shown = [trial + new_tokens for trial, new_tokens in zip(shown, answers.text_counts, strict=True)]
            self._take(open_ones, self._odds(answers.scores), context)
        branchings = [_compare_trials(entropy, of_row) for entropy, of_row in zip(entropies, of_rows, strict=True)]
        after = state.append_tokens([branching.trials[branching.chosen_trial] for branching in branchings])
        events = [_event(branching, count) for branching, count in zip(branchings, shown, strict=True)]
        return replace(after, last=tuple(branchings)), events

    def _odds(self, scores: Tensor) -> Tensor:
        """Return the sampling distribution, double precision."""
        if self.config.temperature == 0:
            return nn.functional.one_hot(scores.argmax(-1), scores.shape[-1]).double()
        kept = nucleus((scores.double() / self.config.temperature).softmax(-1), self.config.top_p)
        return kept / kept.sum(-1, keepdim=True)

    def _trials(self, entropy: float) -> int:
        config = self.config
        if config.by == "nothing":
            return config.max_trials
        count = trials_at(entropy, config)
        return count if config.by == "entropy" else config.max_trials + 1 - count

    def _take(self, trials: Sequence[_Trial], odds: Tensor, context: GenerationContext) -> None:
        """Sample a token for each trial, in order, with its row's generator."""
        ends = self._ends(context)
        tokens = draw(odds, [context.generators[trial.row] for trial in trials])
        chances = odds.gather(-1, torch.tensor(tokens, device=odds.device)[:, None]).flatten().tolist()
        for each_trial, token, chance in zip(trials, tokens, chances, strict=True):
            each_trial.take(token, chance, ends)

    def _ends(self, context: GenerationContext) -> frozenset[int]:
        stops = context.limits.stop_tokens if context.limits else frozenset[int]()
        if not isinstance(self.config.ends, str):
            return stops.union(self.config.ends)
        return stops if context.tokenizer is None else stops | clause_ends(context.tokenizer, self.config.ends)


def trials_at(entropy: float, config: CntpConfig) -> int:
    """Return the number of trials at an entropy in nats."""
    share = (entropy - config.low) / (config.high - config.low)
    if config.form == "paper":
        return max(1, min(config.max_trials, math.floor(share * config.max_trials)))
    return int(config.min_trials + (config.max_trials - config.min_trials) * min(1.0, max(0.0, share)))


def _entropies(odds: Tensor) -> list[float]:
    return torch.special.entr(odds).sum(-1).tolist()


def _compare_trials(entropy: float, trials: Sequence[_Trial]) -> Branching:
    perplexities = tuple(trial.perplexity for trial in trials)
    chosen = min(range(len(trials)), key=perplexities.__getitem__)
    return Branching(entropy, tuple(tuple(trial.tokens) for trial in trials), perplexities, chosen)


def _event(branching: Branching, rows: int) -> Event:
    proposed = sum(map(len, branching.trials))
    return Event(
        proposed=proposed,
        accepted=len(branching.trials[branching.chosen_trial]),
        trials=len(branching.trials),
        rows=rows,
    )


@lru_cache(maxsize=8)
def clause_ends(tokenizer: Tokenizer, rule: Literal["signs", "endings"]) -> frozenset[int]:
    """Return the tokens that end a clause.

    Args:
        tokenizer: the model's tokenizer.
        rule: signs: the first token of each punctuation sign, encoded alone; endings: also each token whose text,
            without spaces, ends in a sign, e.g. the token "3." of "3.14".
    """
    lone_signs = {tokens[0] for sign in SIGNS if (tokens := tokenizer.encode(sign))}
    if rule == "signs":
        return frozenset(lone_signs)
    texts = ((token, tokenizer.decode([token]).strip(" ")) for token in range(tokenizer.vocabulary))
    return frozenset(lone_signs | {token for token, text in texts if text and text[-1] in SIGNS})
