"""awrs: samples text under a constraint that is checked only for proposed tokens, with unbiased importance weights.

Idea: sample without replacement until a token is accepted; the same few calls estimate the accepted mass Z, which
    weights and resamples particles. So texts follow the model conditioned on the constraint, not step-wise
    renormalisation.
Equation: E[W 1{X = t}] = p_t a(t); w <- w W; at (sum w)^2 / sum w^2 < share N: resample, and factor <- factor mean w;
    evidence: factor times the mean w of whole texts, unbiased for the probability that a text satisfies the constraint.
    With a critic c: w <- w c(longer) / c(shorter) too, so the weight of a whole text is multiplied by c(text).
Assumes: a causal language model; a tokenizer, or a constraint on tokens; a stop token, or ends = "whole".
Leaks: calls and rejections per step increase with the model's mass outside the constraint, so they reveal it.
Fails: if no token is accepted or the rejections are used up, the row ends with the reason. The length limit cuts texts.
Source: Lipkin et al. 2025, arXiv 2504.05410; variants as in the published code genlm-control.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fedsim.components.decoder import _constraints as constraints
from fedsim.components.decoder._constraints import Constraint
from fedsim.components.decoder._critics import Critic, CriticOfText, Indifferent
from fedsim.components.decoder._look_ahead import LookAhead
from fedsim.components.decoder._particles import Particle, Population, chosen_by_weight
from fedsim.components.decoder._rejection import (
    Accepts,
    TokenDraw,
    draw_first,
    draw_geometric,
    draw_recursive,
    draw_two_loops,
)
from fedsim.core.errors import FedsimError, GenerationError
from fedsim.core.hooks import GenerationContext, GenerationInputs, TextState, WeightedDecoder
from fedsim.core.registry import component
from fedsim.core.registry.user_functions import check_marked
from fedsim.core.types import Config, Event, Limits

_KINDS = ("regex", "grammar", "json_schema", "predicate")
_SURE = 2 / 3  # probability of a token from which the geometric estimate has lower variance
_FEWEST = 2  # acceptances that the geometric estimate needs


class AwrsConfig(Config):
    """Settings of adaptive weighted rejection sampling. At most one of the four constraints; without one, all texts."""

    regex: str | None = Field(default=None, description="regular expression that the whole text matches")
    grammar: str | None = Field(default=None, description="grammar in lark's language, LALR(1)")
    start: str = Field(default="start", description="rule of the grammar that the whole text follows")
    json_schema: dict[str, Any] | None = Field(default=None, description="the text is JSON that this schema allows")
    predicate: str | None = Field(
        default=None,
        description="package.module:function(text, is_whole) -> bool, marked with @for_scenarios; where is_whole is "
        "False, it says whether a text that is allowed may begin so",
    )
    critic: str | None = Field(
        default=None,
        description="package.module:function(text, is_whole) -> float of at least 0, marked with @for_scenarios; the "
        "weight of a whole text; for a prefix its expected weight, ideally over its completions, and 0 if "
        "the constraint will refuse them. Unset: equal weights",
    )
    ends: Literal["stop", "whole"] = Field(
        default="stop", description="stop: at a stop token, where the text is whole; whole: as soon as it is whole"
    )
    particles: int = Field(default=1, ge=1, description="texts N that are weighed against each other; the paper: 5")
    share: float = Field(default=0.5, ge=0, le=1, description="of N, below which effective size they are resampled")
    estimator: Literal["auto", "recursive", "geometric", "two-loops", "none"] = Field(
        default="auto",
        description="of the accepted mass; auto: geometric where accepts is above 2 or a token has two thirds, else "
        "recursive; none: weight 1, texts renormalised step by step. A control",
    )
    accepts: int = Field(default=2, ge=_FEWEST, description="acceptances m that the geometric estimate waits for")
    max_rejects: int | None = Field(default=None, ge=1, description="rejections of a draw, at which its particle dies")
    temperature: float = Field(default=1.0, gt=0, description="T; the distribution that is constrained is that at T")

    flatness: float = Field(
        default=1.0,
        gt=0,
        description="of the proposal q, proportional to p^(1 / flatness); draws have weight p / q; 1: q is the model",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        chosen = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(chosen) > 1:
            raise ValueError(f"'{chosen[0]}' and '{chosen[1]}' are both set: expected a single constraint.")
        if self.estimator == "two-loops" and self.max_rejects is not None:
            raise ValueError(
                "max_rejects makes the estimator two-loops biased. Leave it out, or choose estimator recursive."
            )
        return self


@dataclass(frozen=True)
class Weighing(TextState):
    """Common prefixes of the particles' texts, and the particles of each row.

    Attributes:
        begins: prompt length of each row.
        populations: particles of each row.
        ahead: key-value cache of the particles' texts.
    """

    begins: tuple[int, ...]
    populations: tuple[Population, ...]
    ahead: LookAhead = field(default_factory=LookAhead, kw_only=True, compare=False, repr=False)


class _Answers:
    """Cached answers of a constraint for the particles of a row."""

    def __init__(self, constraint: Constraint, stops: frozenset[int], ends: Literal["stop", "whole"]) -> None:
        self._constraint, self.stops, self._ends = constraint, stops, ends
        self._allowed: dict[tuple[int, ...], bool] = {}
        self._whole: dict[tuple[int, ...], bool] = {}

    @property
    def calls(self) -> int:
        """Number of calls of the constraint."""
        return len(self._allowed) + len(self._whole)

    @property
    def rejected_count(self) -> int:
        """Number of rejected tokens."""
        ends = [*self._whole.values()] if self._ends == "stop" else []
        return sum(not is_allowed for is_allowed in (*self._allowed.values(), *ends))

    def accepts(self, tokens: tuple[int, ...]) -> Accepts:
        """Return a function that decides whether a token may follow `tokens`."""

        def accepts(token: int) -> bool:
            if token in self.stops:
                return self._ends == "stop" and self._completes(tokens)
            longer = (*tokens, token)
            if longer not in self._allowed:
                self._allowed[longer] = self._constraint.allows(longer)
            return self._allowed[longer]

        return accepts

    def are_whole(self, tokens: tuple[int, ...]) -> bool:
        """Return whether a text ends with its last token."""
        return tokens[-1] in self.stops or (self._ends == "whole" and self._completes(tokens))

    def _completes(self, tokens: tuple[int, ...]) -> bool:
        if tokens not in self._whole:
            self._whole[tokens] = self._constraint.completes(tokens)
        return self._whole[tokens]


@final
@component(
    "awrs",
    summary="decoder: within a constraint, by weighted rejection sampling and particles",
    tier="research",
    paper="2504.05410",
    fidelity="reproduction",
    extra="constrain",
    paper_steps=(
        ("weight of a token by adaptive rejection", "draw_recursive"),
        ("a proposal other than the model", "Awrs._propose"),
        ("a critic: its change of score weights the particles", "_weigh_particle"),
        ("resampling of particles below a share of the effective sample size", "Awrs._weigh"),
        ("evidence of the constraint", "Awrs.log_evidence"),
    ),
)
class Awrs(WeightedDecoder[AwrsConfig, Weighing]):
    """Generates the common prefix of all particles, and at the end the text of a particle sampled by weight.

    Args:
        config: settings.
        constraint: on tokens; replaces the text constraint of the settings.
        critic: of tokens; replaces the text critic of the settings.
    """

    counts: ClassVar[frozenset[str]] = frozenset({"accepted", "calls", "rejected", "particles", "rows", "resampled"})

    def __init__(self, config: AwrsConfig, constraint: Constraint | None = None, critic: Critic | None = None) -> None:
        super().__init__(config)
        self._constraint, self._critic = constraint, critic

    @classmethod
    def within(cls, pattern: str, particles: int) -> Self:
        """Return a decoder with a regular expression that ends a text as soon as it matches."""
        return cls(AwrsConfig(regex=pattern, ends="whole", particles=particles))

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Weighing:
        """Return the prompts with `particles` empty particles each.

        Raises:
            GenerationError: no text satisfies the constraint, or the critic gives every text 0.
            FedsimError: no stop token is set, or a tokenizer is missing.
        """
        constraint = self._constraint_for(context)
        if self.config.ends == "stop" and self._is_constrained and not _limits(context).stop_tokens:
            raise FedsimError(
                "decoder 'awrs' ends a text at a stop token, and the limits name none. Set stop_tokens, for example to "
                'the end of the tokenizer, or the decoder\'s ends = "whole".'
            )
        if not constraint.allows(()):
            raise GenerationError("no text satisfies the constraint of decoder 'awrs'. Change it.", ())
        is_whole = self.config.ends == "whole" and constraint.completes(())
        worth = self._critic_for(context).log_worth((), is_whole=is_whole)
        if worth == -math.inf:
            raise GenerationError("the critic of decoder 'awrs' says that no text is worth anything. Change it.", ())
        population = Population((Particle((), worth, is_whole, worth),) * self.config.particles)
        begins = tuple(map(len, condition.prompts))
        return Weighing(condition.prompts, begins, (population,) * len(condition))

    def are_finished(self, state: Weighing) -> Sequence[bool]:
        """Return which texts ended without a stop token."""
        return [population.is_over and not population.failure for population in state.populations]

    def log_evidence(self, state: Weighing) -> Sequence[float | None]:
        """Return the log evidence of rows that ended or are full, else None; cut texts have weight 0."""
        return [
            population.drop_unfinished().log_evidence if population.is_over or population.is_full else None
            for population in state.populations
        ]

    def step(self, model: nn.Module, state: Weighing, context: GenerationContext) -> tuple[Weighing, list[Event]]:
        """Sample a token for each particle, update the weights, and resample below the effective sample size.

        Raises:
            GenerationError: all particles of a row died, or the model's scores are not finite.
        """
        _refuse_failed(state)
        open_texts = [
            (row, (*state.tokens[row][: state.begins[row]], *particle.tokens))
            for row, population in enumerate(state.populations)
            for particle in population.particles
            if particle.is_open
        ]
        owners, texts = [row for row, _ in open_texts], [text for _, text in open_texts]
        scores, shown = state.ahead.scores(model, texts, owners, len(state))
        log_odds = iter((scores.double() / self.config.temperature).log_softmax(-1).cpu())
        constraint, critic, stops = (
            self._constraint_for(context),
            self._critic_for(context),
            _limits(context).stop_tokens,
        )
        grown, after, events = list[tuple[int, ...]](), list[Population](), list[Event]()
        for row, population in enumerate(state.populations):
            generator, begin = context.generators[row], state.begins[row]
            answers = _Answers(constraint, stops, self.config.ends)
            moved, draws = self._advance(population, log_odds, answers, critic, generator)
            weighed = self._weigh(_cut(moved, _room(_limits(context), begin)), generator)
            grown.append(_select_output(population, weighed, generator)[len(state.tokens[row]) - begin :])
            after.append(weighed)
            events.append(
                Event(
                    accepted=len(grown[-1]),
                    calls=answers.calls,
                    rejected=answers.rejected_count,
                    particles=draws,
                    rows=shown[row],
                    resampled=int(weighed.log_factor != moved.log_factor),
                )
            )
        return replace(state.append_tokens(grown), populations=tuple(after)), events

    @property
    def _is_constrained(self) -> bool:
        return self._constraint is not None or any(getattr(self.config, kind) is not None for kind in _KINDS)

    def _constraint_for(self, context: GenerationContext) -> Constraint:
        if self._constraint is not None:
            return self._constraint
        if not self._is_constrained:
            return constraints.Anything()
        if context.tokenizer is None:
            raise FedsimError(
                "decoder 'awrs' checks its output as text, and no tokenizer was passed. Pass tokenizer= to generate."
            )
        return constraints.OfText(_rule(self.config), context.tokenizer)

    def _critic_for(self, context: GenerationContext) -> Critic:
        if self._critic is not None:
            return self._critic
        name = self.config.critic
        if name is None:
            return Indifferent()
        if context.tokenizer is None:
            raise FedsimError(
                "the critic of decoder 'awrs' reads text, and no tokenizer was passed. Pass tokenizer= to generate."
            )
        return CriticOfText(name, _import_marked(name), context.tokenizer)

    def _advance(
        self, population: Population, log_odds: Any, answers: _Answers, critic: Critic, generator: torch.Generator
    ) -> tuple[Population, int]:
        """Extend each open particle by a sampled token; return the population and the number of draws."""
        particles, draws = list[Particle](), list[TokenDraw]()
        for particle in population.particles:
            if not particle.is_open:
                particles.append(particle)
                continue
            choice = self._propose(next(log_odds), answers.accepts(particle.tokens), generator)
            draws.append(choice)
            particles.append(_weigh_particle(_extend_particle(particle, choice, answers), critic, answers.stops))
        after = replace(population, particles=tuple(particles))
        if not any(particle.is_living for particle in particles):
            after = replace(after, failure=_failure(draws, self.config.max_rejects))
        return after, len(draws)

    def _propose(self, log_odds: Tensor, accepts: Accepts, generator: torch.Generator) -> TokenDraw:
        """Sample from the proposal with importance weight W p / q, so that E[W p / q 1{X = t}] = p_t a(t)."""
        if self.config.flatness == 1:
            return self._draw(log_odds, accepts, generator)
        proposal = (log_odds / self.config.flatness).log_softmax(-1)
        choice = self._draw(proposal, accepts, generator)
        if choice.token is None:
            return choice
        turned_back = float(log_odds[choice.token] - proposal[choice.token])
        return choice._replace(log_weight=choice.log_weight + turned_back)

    def _draw(self, log_odds: Tensor, accepts: Accepts, generator: torch.Generator) -> TokenDraw:
        config, limit = self.config, self.config.max_rejects
        if config.estimator == "none":
            return draw_first(log_odds, accepts, generator, limit)
        if config.estimator == "two-loops":
            return draw_two_loops(log_odds, accepts, generator)
        is_sure = config.accepts > _FEWEST or float(log_odds.max()) >= math.log(_SURE)
        if config.estimator == "geometric" or (config.estimator == "auto" and is_sure):
            return draw_geometric(log_odds, accepts, generator, limit, config.accepts)
        return draw_recursive(log_odds, accepts, generator, limit)

    def _weigh(self, population: Population, generator: torch.Generator) -> Population:
        """Append the effective sample size; resample if it is below the share."""
        measured = population.with_sample_size()
        is_enough = measured.sizes[-1] >= self.config.share * len(measured.particles)
        return measured if measured.failure or is_enough else measured.resample(generator)


def _rule(config: AwrsConfig) -> constraints.TextRule:
    if config.regex is not None:
        return constraints.regex(config.regex)
    if config.grammar is not None:
        return constraints.grammar(config.grammar, config.start)
    if config.json_schema is not None:
        return constraints.json_schema(json.dumps(config.json_schema))
    assert config.predicate is not None, "the caller has checked that a constraint is set"
    return constraints.Predicate(_import_marked(config.predicate))


def _import_marked(name: str) -> Callable[[str, bool], Any]:
    check_marked(name)
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _limits(context: GenerationContext) -> Limits:
    assert context.limits is not None, "who writes has limits"
    return context.limits


def _room(limits: Limits, begin: int) -> int:
    """Return the maximum number of tokens after a prompt."""
    room = limits.max_new_tokens if limits.context is None else limits.context - begin
    return min(limits.max_new_tokens, room)


def _cut(population: Population, room: int) -> Population:
    """Set `is_full`; if no open text may grow and some are whole, set the weights of all others to 0."""
    living = [particle for particle in population.particles if particle.is_living]
    is_full = not any(particle.is_open and len(particle.tokens) < room for particle in living)
    if is_full and any(particle.is_whole for particle in living):
        return population.drop_unfinished()
    return replace(population, is_full=is_full)


def _select_output(before: Population, after: Population, generator: torch.Generator) -> tuple[int, ...]:
    """Return the tokens to output: the common prefix of living particles, or at the end one text sampled by weight.

    If all particles died, it is the text of the previously heaviest particle.
    """
    if after.failure:
        return max(before.particles, key=lambda candidate: candidate.log_weight).tokens
    living = [particle for particle in after.particles if particle.is_living]
    if after.is_over or after.is_full:
        return living[chosen_by_weight([candidate.log_weight for candidate in living], 1, generator)[0]].tokens
    texts = [candidate.tokens for candidate in living]
    first, last = min(texts), max(texts)  # the common prefix of the extremes is that of all texts
    return first[: next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _extend_particle(particle: Particle, choice: TokenDraw, answers: _Answers) -> Particle:
    if choice.token is None:
        return replace(particle, log_weight=-math.inf)
    tokens = (*particle.tokens, choice.token)
    weight = particle.log_weight + choice.log_weight
    return replace(particle, tokens=tokens, log_weight=weight, is_whole=answers.are_whole(tokens))


def _weigh_particle(particle: Particle, critic: Critic, stops: frozenset[int]) -> Particle:
    """Multiply a particle's weight by c(longer) / c(shorter)."""
    if not particle.is_living:
        return particle
    text = particle.tokens[:-1] if particle.tokens[-1] in stops else particle.tokens
    worth = critic.log_worth(text, is_whole=particle.is_whole)
    return replace(particle, log_weight=particle.log_weight + worth - particle.log_worth, log_worth=worth)


def _failure(draws: Sequence[TokenDraw], limit: int | None) -> str:
    if any(draw.token is not None for draw in draws):
        return (
            "the critic of decoder 'awrs' gives 0 to every continuation of the text so far. Make it return "
            "more than 0 for prefixes of valid texts, or increase 'particles'."
        )
    if any(draw.is_spent for draw in draws):
        return (
            f"decoder 'awrs' spent the {limit} rejections of a draw before a token was accepted. Raise max_rejects, or "
            "begin the text so that the model leans towards the constraint."
        )
    return (
        "the constraint of decoder 'awrs' accepts no next token after the text so far, so generation cannot "
        "continue (a dead end). Check that a text satisfies the constraint, or increase 'particles'."
    )


def _refuse_failed(state: Weighing) -> None:
    failed = [row for row, population in enumerate(state.populations) if population.failure]
    if failed:
        reason = state.populations[failed[0]].failure
        raise GenerationError(reason, [row for row in failed if state.populations[row].failure == reason])
