"""Settings and base class of attacks that match the gradient of a text by descent on embedding vectors.

The embedding's own gradient is not matched, since vectors replace its outputs. If it is shared, it shows the input
tokens, and only these are candidates. The output layer's gradient shows the next tokens and the lengths of the
sentences. Known dropout masks are used. Unknown masks are searched as in the Dropout Inversion Attack if the rates are
known and the settings do not ignore them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.defense_facts import searched_sites
from attacks.core.matching.attack import best_of, has_failed
from attacks.core.matching.comparison import Comparison, GeneralComparison
from attacks.core.matching.descent import RestartResult, VictimGroup
from attacks.core.matching.ghost import GhostComparison
from attacks.core.matching.simulated_client import SimulatedClient
from attacks.core.matching.terms import Distance, DistanceChoice, DistanceConfig, distance_setting
from attacks.core.matching.unknown_masks import GivenMasks, OptimisedMasks
from attacks.core.matching.unknowns import Unknowns
from attacks.core.mean_gradient import as_gradient
from attacks.core.outlooks import outlook_of
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import no_examples
from attacks.core.tolerances import EXACT_TEXT
from attacks.text._sentences import complete, explains
from attacks.text._vectors import (
    NextWords,
    VectorComparison,
    VectorGhostComparison,
    client_of_vectors,
    faster,
    nearest_tokens,
    no_vectors,
)
from attacks.text._words import Words, following_of, lengths_of, predicts_words, words_of
from fedsim.core.hooks import Attack, CostEstimate
from fedsim.core.nets.masks import expected_mask
from fedsim.core.types import Config, DropoutSite, Masks, Modality, Observation, OnStep, Reconstruction

_ONE_TOKEN = 0.01  # temperature
GRADIENTS_OF_A_TEXT_STEP = 4.0  # gradients that cost as much as a step of a descent on vectors
_ENDINGS = 16  # candidate tokens after a sentence


class TextMatchingConfig(Config):
    """Settings of the search for a text."""

    distance: DistanceChoice = distance_setting("layer-cosine")
    temperature: float = Field(
        default=0.3,
        gt=0,
        description="temperature of next words, in units of the mean squared norm of an embedding's row",
    )
    unknown_masks: Literal["searched", "ignored"] = Field(
        default="searched",
        description="searched: with the text, as in the Dropout Inversion Attack, from 1 - p on; ignored: no dropout",
    )
    mask_learning_rate: float = Field(default=0.1, gt=0, description="Adam's step for searched masks")
    mask_weight: float = Field(default=1e-4, ge=0, description="weight of the prior of searched masks")
    device: Literal["cpu", "cuda"] = Field(
        default="cpu", description="where the search runs, if the scenario says no device"
    )


ConfigT = TypeVar("ConfigT", bound=TextMatchingConfig)


@dataclass(frozen=True)
class TextProblem:
    """An observed gradient, prepared for a search.

    Attributes:
        exact: the same comparison at a low temperature, for vectors of tokens: next words are single tokens.
        unknowns: the dropout masks, given or searched.
        usual_masks: known masks of the dropout sites, or else their expectation, as in evaluation mode.
        table: the embedding (V, d) that the client received.
        words: the tokens that the gradient shows.
        labels: granted labels, or the lengths of the sentences (B,) if next words are searched.
        lengths: lengths of the sentences.
        places: vectors per sentence: the length plus 1 if next words are searched.
        scale: root mean square of the entries of the table.
        usual: mean norm of the rows of input tokens, or of all rows if input tokens are unknown.
    """

    observation: Observation
    client: SimulatedClient
    comparison: Comparison
    exact: Comparison
    unknowns: Unknowns
    usual_masks: Masks
    table: Tensor
    words: Words
    labels: Tensor
    lengths: tuple[int, ...]
    places: int
    scale: float
    usual: float

    def victim(self, generator: torch.Generator, on_step: OnStep) -> VictimGroup:
        """Return the observation as the only victim of a descent."""
        return VictimGroup([self.observation], [self.labels], [generator], [on_step])

    def tokens(self, vectors: Tensor) -> Tensor:
        """Return the nearest tokens of vectors (B, places, d), padded with -1, shape (B, T)."""
        nearest = nearest_tokens(vectors[:, : self.observation.spec.shape[0]], self.table, self.words.read)
        places = torch.arange(nearest.shape[1], device=nearest.device)
        ends = torch.tensor(self.lengths, device=nearest.device)
        return nearest.masked_fill(places >= ends[:, None], -1)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Return a random dummy (B, places, d): Gaussian noise, or the known input tokens in random order.

        Each input token occurs at least once, if they all fit.
        """
        shape, read = (len(self.lengths), self.places), self.words.read
        if read is None or not len(read):
            return self.scale * torch.randn((*shape, self.table.shape[1]), generator=generator)
        total, endings = sum(self.lengths), self.endings
        drawn = read[torch.randint(len(read), (max(0, total - len(read)),), generator=generator)]
        words = torch.cat((read[torch.randperm(len(read), generator=generator)][:total], drawn))
        words = words[torch.randperm(total, generator=generator)]
        last_tokens = endings[torch.randint(len(endings), shape, generator=generator)]
        places = torch.arange(self.places) < torch.tensor(self.lengths)[:, None]
        return self.table[last_tokens.masked_scatter(places, words)]

    @property
    def choices(self) -> Tensor:
        """The tokens that may be in a sentence."""
        return torch.arange(len(self.table)) if self.words.read is None else self.words.read

    @property
    def endings(self) -> Tensor:
        """Candidates for the token after a sentence: next tokens that are not input tokens, else all next tokens."""
        following = torch.arange(len(self.table)) if self.words.next_tokens is None else self.words.next_tokens
        new = following[~torch.isin(following, self.choices)]
        return new if len(new) else following


class TextMatching(Attack[ConfigT]):
    """An attack that matches a single gradient of a text. Subclasses implement `rows`."""

    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})

    @cached_property
    def distance(self) -> Distance[DistanceConfig]:
        """The gradient distance of the settings."""
        return self.config.distance.make("distance")

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several steps, models without a token embedding, random draws, and labels that cannot be known."""
        reason = no_vectors(observation)
        if reason is not None:
            return reason
        if not observation.task.has_labels:
            return (
                "the sentences have no labels: the clients contrast them, in two views each, and a vector "
                "instead of a token shows neither the second view's repeated words nor its end"
            )
        if observation.task.draws:
            return (
                "the clients' task draws something in every step, as masked places and their rate, which this search "
                "does not look for"
            )
        if observation.labels is None and not predicts_words(observation):
            return "the labels are not next words, and the threat model does not grant them"
        if not explains(observation):
            return "the clients' loss is not the mean cross-entropy of next words"
        return one_gradient_only(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Count the gradients of descents and of comparisons."""
        chance, because = self.estimate_success(observation)
        return outlook_of(observation, self.count_gradients(), chance, because)

    @abstractmethod
    def estimate_success(self, observation: Observation) -> tuple[float, str]:
        """Return the chance that the search ends at the text of an exact update, and its reason as a clause."""

    @abstractmethod
    def count_gradients(self) -> float:
        """Return the number of gradients that cost as much as the search."""

    @abstractmethod
    def rows(self, task: TextProblem, generator: torch.Generator, on_step: OnStep) -> list[RestartResult]:
        """Return the results of all restarts."""

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Search, and return the nearest tokens of the best result."""
        task = self.prepare(observation)
        rows = self.rows(task, generator, _told_in_tokens(on_step, task))
        best = best_of(rows, task.labels, task.comparison.name)
        if has_failed(rows):
            return replace(best, inputs=no_examples(observation))
        guess = task.tokens(best.inputs.to(task.table))
        labels = observation.labels if observation.labels is not None else torch.zeros(len(guess), dtype=torch.long)
        distance = self._distance(task, guess, best.masks)
        diagnostics = {**best.diagnostics, "distance of the tokens' gradient": distance}
        return replace(best, inputs=guess, labels=labels, diagnostics=diagnostics, is_exact=distance < EXACT_TEXT)

    def prepare(self, observation: Observation) -> TextProblem:
        """Return the prepared search; the observed model is not changed."""
        observation = as_gradient(observation)
        words, lengths = _known_words(observation), lengths_of(observation)
        sites = self._sites(observation)
        client, table = client_of_vectors(observation, sites)
        labels = torch.tensor(lengths) if observation.labels is None else observation.labels
        following = torch.arange(len(table)) if words.next_tokens is None else words.next_tokens
        next_words = NextWords(table, following.to(table.device), self.config.temperature)
        comparison = self._comparison(observation, client, next_words, labels)
        is_soft = isinstance(comparison, VectorComparison | VectorGhostComparison)
        return TextProblem(
            observation=observation,
            client=client,
            comparison=comparison,
            exact=comparison.with_temperature(_ONE_TOKEN) if is_soft else comparison,
            unknowns=self._unknowns(observation, sites),
            usual_masks=known_masks(observation, sites),
            table=table,
            words=words,
            labels=labels,
            lengths=lengths,
            places=observation.spec.shape[0] + (observation.labels is None),
            scale=float(table.square().mean().sqrt()),
            usual=float((table if words.read is None else table[words.read]).norm(dim=1).mean()),
        )

    def _comparison(
        self, observation: Observation, client: SimulatedClient, words: NextWords, labels: Tensor
    ) -> Comparison:
        """Return the ghost comparison if it is applicable and agrees with the general comparison on two dummies."""
        observations, is_granted = [observation], observation.labels is not None
        general = (
            GeneralComparison(client, observations) if is_granted else VectorComparison(client, observations, words)
        )
        if self.distance.reads_entries or not client.wire.is_plain:
            return general
        generator = torch.Generator().manual_seed(0)
        length = observation.spec.shape[0] + (not is_granted)
        shape = (2, len(labels), length, words.table.shape[1])
        spread = words.table.square().mean().sqrt()
        inputs = spread * torch.randn(shape, generator=generator).to(words.table)
        masks = tuple(torch.rand((2, *site.shape), generator=generator).to(inputs) for site in client.sites)
        probe = (inputs, masks, torch.stack([labels] * 2).to(inputs.device))
        if is_granted:
            return faster(general, lambda: GhostComparison(client, observations), probe)
        return faster(general, lambda: VectorGhostComparison(client, observations, words), probe)

    def _sites(self, observation: Observation) -> tuple[DropoutSite, ...]:
        if observation.masks is not None:
            return observation.sites
        return searched_sites(observation) if self.config.unknown_masks == "searched" else ()

    def _unknowns(self, observation: Observation, sites: tuple[DropoutSite, ...]) -> Unknowns:
        if observation.masks is not None:
            return Unknowns((GivenMasks(victim_masks=observation.masks),) if sites else ())
        rate, weight = self.config.mask_learning_rate, self.config.mask_weight
        return Unknowns((OptimisedMasks(rate=rate, sites=sites, begin="mean", weight=weight),))

    def _distance(self, task: TextProblem, guess: Tensor, masks: Masks | None) -> float:
        known = task.observation.masks[0] if task.observation.masks is not None else masks
        return complete(task.observation, guess, task.words, known or ()).distance


def _known_words(observation: Observation) -> Words:
    """Return the tokens that the gradient shows, with a limited number of next tokens.

    In a trained model, rows of other tokens exceed the noise in the output layer too. Next tokens are input tokens, or
    follow the last token of a sentence: of the tokens that are not in the input, those with the largest rows are kept.
    """
    words, following = words_of(observation), following_of(observation)
    if words.read is None or following is None:
        return words
    ranked = following.tokens[following.weights.argsort(descending=True)]
    new = ranked[~torch.isin(ranked, words.read)][: _ENDINGS * (observation.batch_size or 1)]
    return words._replace(next_tokens=torch.cat((new, words.read)))


def known_masks(observation: Observation, sites: Sequence[DropoutSite]) -> Masks:
    """Return granted masks of dropout sites, or else their expectation."""
    if observation.masks is not None:
        return observation.masks[0] if sites else ()
    return tuple(expected_mask(site) for site in sites)


def _told_in_tokens(on_step: OnStep, task: TextProblem) -> OnStep:
    return lambda step: on_step(replace(step, guess=task.tokens(step.guess)))
