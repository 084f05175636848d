"""masked-matching: search the text, masked positions and masking rate whose gradient matches a masked model's.

`threat.knows = ["client-randomness"]` grants the draws. Estimated draws of one text are the positions that the first
span shows, if the mask token lies in it, and the rate by their share; of several texts those that the second span puts
together, as in `masked-spans`: if it does not find all, the search begins at its result, with even odds elsewhere. Only
tokens that the gradient shows (`word-readout`) are candidates. If the server sees no gradients of the attentions,
`masked-spans` refuses, and this search still works. Of batches of several texts it recovers part of the tokens.

Idea: each position has one vector: the model's input if the position is visible, and the target token, softly, if it
    is masked. Masked positions and rates are unknowns too, like dropout masks in other attacks.
Equation: min over vectors v, odds m in [0, 1] and rates p of the mean over tensors l of |g_l - g*_l|^2 / |g*_l|^2,
    where the model's input is (1 - m_i) v_i + m_i E_mask and the loss is sum_i m_i CE_i / (p n).
Assumes: a single gradient of a masked diffusion model. Draws are granted, or searched, or estimated by spans.
Recovers: most tokens at their position, at fresh weights of a model with learned positions; the draws roughly.
Fails: dropout, whose masks are not searched; noise; trained models were not tried. `masked-spans` needs no search.
Source: the search after Deng et al. 2021, arXiv 2103.06819; draws as unknowns are derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.matching.attack import best_of, best_row, has_failed
from attacks.core.matching.comparison import GeneralComparison
from attacks.core.matching.descent import Descent, DescentSettings, RestartResult, Search, VictimGroup, descend
from attacks.core.matching.simulated_client import SimulatedClient
from attacks.core.matching.terms import DistanceChoice, distance_setting
from attacks.core.matching.unknowns import Bounded, Logits, SearchProgress, Unknowns, Values
from attacks.core.mean_gradient import as_gradient
from attacks.core.outlooks import outlook_of
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import NothingFound, no_examples
from attacks.text._examples import MASKED
from attacks.text._masked_places import masked_places
from attacks.text._vectors import NextWords, client_of_vectors, nearest_tokens, no_vectors
from attacks.text._words import words_of
from attacks.text.base import GRADIENTS_OF_A_TEXT_STEP
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack, CostEstimate, Effort, Tables
from fedsim.core.nets.masked_positions import mask_token
from fedsim.core.registry import attack
from fedsim.core.types import Config, Masks, Modality, Observation, OnStep, Reconstruction

_MASKED, _RATE = "masked", "rate"
_LEAST_RATE, _HALF = 1e-3, 0.5
_DOUBT = 0.05  # initial odds of the opposite at an estimated position


class MaskedMatchingConfig(Config):
    """Settings of the search."""

    draws: Literal["searched", "estimated"] = Field(
        default="searched",
        description="masked positions and rates that are not granted. searched: with the text; estimated: for a single "
        "text, positions from the first attention's span and the rate from their share; for several texts, "
        "the same for the texts that the second span shows, and the search starts there if some are missing",
    )
    distance: DistanceChoice = distance_setting("relative-squared")
    max_iterations: int = Field(default=600, ge=1, description="iterations of each restart")
    learning_rate: float = Field(
        default=0.25, gt=0, description="Adam's step, in units of the root mean square of the embedding's entries"
    )
    draws_learning_rate: float = Field(default=0.05, gt=0, description="Adam's step of places, as logits, and of rates")
    temperature: float = Field(
        default=0.3, gt=0, description="of tokens to fill in, in units of the mean squared norm of an embedding's row"
    )
    restarts: int = Field(default=1, ge=1, description="independent restarts; the lowest objective wins")


class _Draws(NamedTuple):
    """Odds of masked positions (B, T) and rates (B,).

    `stand`: whether both are fixed; otherwise they are the initialisation of the search.
    """

    masked_positions: Tensor
    rate: Tensor
    stand: bool


@dataclass(frozen=True)
class _Places(Logits):
    """Masked positions as logits; a forward pass receives their odds."""

    def forward_values(self, variables: Masks, progress: SearchProgress) -> Masks:
        """Return the odds."""
        return tuple(variable.sigmoid() for variable in variables)


class _MaskedComparison(GeneralComparison):
    """Gradients of dummies (R, B, T, d) with unknown masked positions and rates."""

    name = "masked vectors"

    def __init__(self, client: SimulatedClient, observation: Observation, mask: Tensor, words: NextWords) -> None:
        super().__init__(client, [observation])
        self._mask, self._words = mask, words

    def gradient(
        self, inputs: Tensor, masks: Masks, labels: Tensor, variables: Values, victim: int
    ) -> tuple[Tensor, ...]:
        (masked,), (rate,) = variables[_MASKED], variables[_RATE]
        read = torch.lerp(inputs, self._mask.expand_as(inputs), masked[..., None])
        outputs = self.client.outputs(read, masks, self.weights)
        weights = masked / (rate[:, None] * masked.shape[1])
        return self.differentiate_loss(
            self._words.cross_entropy(outputs, self._words.shares(inputs) * weights[..., None]).mean()
        )


@final
@attack(
    "masked-matching",
    summary="text, masked positions and rates with the closest gradient",
    tier="research",
    related="2103.06819",
)
class MaskedMatching(Attack[MaskedMatchingConfig]):
    """Descends on vectors, odds of masked positions, and rates."""

    effort: ClassVar[Effort] = "descent"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})
    example: ClassVar[Tables] = {**MASKED, "attacks": [{"max_iterations": 10}]}

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse models without a mask token or embedding, dropout, and several steps."""
        if mask_token(observation.model) is None:
            return "the model has no mask token: it does not fill in masked places"
        if observation.sites:
            return "dropout masks are not searched together with masked positions"
        return no_vectors(observation) or one_gradient_only(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect the steps of a descent on vectors."""
        config = self.config
        gradients = GRADIENTS_OF_A_TEXT_STEP * config.restarts * config.max_iterations
        return outlook_of(observation, gradients, 0.1, "it searches masked positions and rates too")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Return the tokens of the best result."""
        observation, size = as_gradient(observation), observation.batch_size or 1
        task = _Task.of(observation, self.config, _draws(observation, self.config, generator))
        search = Search(
            task.unknowns(self.config, (size, observation.spec.shape[0])),
            lambda _victim, source: task.draw((size, observation.spec.shape[0]), source),
            self.config.distance.make("distance"),
        )
        settings = DescentSettings(
            self.config.max_iterations, self.config.learning_rate * task.scale, schedule="cosine"
        )
        labels = torch.zeros(size, dtype=torch.long)
        decoded = [lambda step: on_step(replace(step, guess=task.tokens(step.guess, task.surely_masked(step.guess))))]
        victim = VictimGroup([observation], [labels], [generator], decoded)
        rows = descend(Descent(task.comparison, search, victim, settings, restarts=self.config.restarts))
        best = best_of(rows, labels, task.comparison.name)
        if has_failed(rows):
            return replace(best, inputs=no_examples(observation))
        masked, rate = task.ends(best_row(rows))
        guess = task.tokens(best.inputs.to(task.table), masked)
        diagnostics = {f"masking rate of text {number}": float(share) for number, share in enumerate(rate, 1)}
        return replace(
            best, inputs=guess, diagnostics={**best.diagnostics, "masked places": float(masked.sum()), **diagnostics}
        )


def _draws(observation: Observation, config: MaskedMatchingConfig, generator: torch.Generator) -> _Draws:
    """Return granted draws, estimated draws, or even odds; also even odds for texts that the spans do not show.

    Raises:
        NotApplicable: the spans for the estimate cannot be computed.
    """
    shape = (observation.batch_size or 1, observation.spec.shape[0])
    if observation.draws is not None:
        step = observation.draws[0]
        return _Draws(step["task.masked"].float(), step["task.rate"].float(), stand=True)
    masked, rate = torch.full(shape, _HALF), torch.full(shape[:1], _HALF)
    if config.draws == "searched":
        return _Draws(masked, rate, stand=False)
    try:
        places = masked_places(observation, generator).float()
    except NothingFound as reason:
        raise NotApplicable(f"masked positions cannot be estimated: {reason}") from reason
    masked[: len(places)] = places
    rate[: len(places)] = places.mean(1).clamp_min(_LEAST_RATE)
    return _Draws(masked, rate, stand=len(places) == len(masked))


@dataclass(frozen=True)
class _Task:
    """An observed gradient, prepared for a search.

    Attributes:
        words: candidate tokens of a masked position.
        read: candidate tokens of a visible position; None for all.
        table: the embedding (V, d), without the mask token.
        draws: the fixed draws, or the initialisation of their search.
    """

    comparison: _MaskedComparison
    words: NextWords
    read: Tensor | None
    table: Tensor
    draws: _Draws

    @classmethod
    def of(cls, observation: Observation, config: MaskedMatchingConfig, draws: _Draws) -> _Task:
        """Prepare the observation; the observed model is not changed."""
        mask, words = mask_token(observation.model), words_of(observation)
        client, rows = client_of_vectors(observation, ())
        table = rows[:mask]
        following = torch.arange(len(table)) if words.next_tokens is None else words.next_tokens
        fill_in = NextWords(table, following, config.temperature)
        return cls(_MaskedComparison(client, observation, rows[mask], fill_in), fill_in, words.read, table, draws)

    @property
    def scale(self) -> float:
        """Root mean square of the table's entries."""
        return float(self.table.square().mean().sqrt())

    def unknowns(self, config: MaskedMatchingConfig, shape: tuple[int, int]) -> Unknowns:
        """Return masked positions and rates as unknowns, which stay constant if the draws are fixed."""
        masked, rate, stand = self.draws
        if stand:
            return Unknowns((Bounded(_MASKED, 0.0, (masked,)), Bounded(_RATE, 0.0, (rate,), _LEAST_RATE)))
        start = masked.clamp(_DOUBT, 1 - _DOUBT).logit()
        places = _Places(_MASKED, config.draws_learning_rate, shape, start=(start,))
        return Unknowns((places, Bounded(_RATE, config.draws_learning_rate, (rate,), _LEAST_RATE)))

    def draw(self, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Return vectors of random tokens that the gradient shows, (B, T, d)."""
        tokens = self._draw_tokens(self.read, shape, generator)
        if self.draws.stand:
            tokens = torch.where(
                self.draws.masked_positions > _HALF, self._draw_tokens(self.words.tokens, shape, generator), tokens
            )
        return self.table[tokens]

    def _draw_tokens(self, tokens: Tensor | None, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        candidates = torch.arange(len(self.table)) if tokens is None or not len(tokens) else tokens
        return candidates[torch.randint(len(candidates), tuple(shape), generator=generator)]

    def surely_masked(self, vectors: Tensor) -> Tensor:
        """Return which positions (B, T) are known to be masked."""
        return self.draws.masked_positions > _HALF if self.draws.stand else torch.zeros(vectors.shape[:2]).bool()

    def ends(self, row: RestartResult) -> tuple[Tensor, Tensor]:
        """Return which positions are masked (B, T), and the rates (B,)."""
        (masked,), (rate,) = row.extra_values[_MASKED], row.extra_values[_RATE]
        return masked > _HALF, rate

    def tokens(self, vectors: Tensor, masked: Tensor) -> Tensor:
        """Return the nearest tokens (B, T): next tokens at masked positions, input tokens at visible positions."""
        read = self.read if self.read is not None and len(self.read) else None
        visible = nearest_tokens(vectors, self.table, read)
        return torch.where(masked, nearest_tokens(vectors, self.table, self.words.tokens), visible)
