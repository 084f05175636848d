"""Settings and frame of the attacks that match the gradient of a text: vectors descend, and the nearest tokens remain.

The embedding's own gradient is not matched, since vectors stand in its place; it tells which tokens were read, and only
those are chosen from, where it is shared. Likewise the output layer's gradient tells which tokens follow, and how long
sentences are. Known dropout masks are used. Unknown ones are searched as in the Dropout Inversion Attack, where the
rates are known and the settings do not ignore them; without dropout nothing changes.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from attacks._comparison import Comparison, GeneralComparison, Setting, setting_of
from attacks._engine import Found
from attacks._labels import gradient_weight
from attacks._masking import GivenMasks, Masking, NoMasks, unknown_masks
from attacks._matching import best_of, one_gradient_only
from attacks._public import searched_sites
from attacks._sentences import completed, explains
from attacks._vectors import NextWords, VectorComparison, nearest_tokens, read_vectors
from attacks._words import Words, embedding_of, lengths_of, predicts_words, words_of
from fedsim.errors import NotApplicable
from fedsim.hooks import Attack
from fedsim.types import Config, DropoutSite, Masks, Modality, Observation, OnStep, Reconstruction

_EXACT = 1e-6


class TextMatchingConfig(Config):
    """Settings of the search for a text."""

    temperature: float = Field(
        default=0.3, gt=0, description="of next words, in units of the mean squared norm of an embedding's row"
    )
    unknown_masks: Literal["searched", "ignored"] = Field(
        default="searched", description="searched along with the text as in the Dropout Inversion Attack, or ignored"
    )
    mask_learning_rate: float = Field(default=0.1, gt=0, description="Adam's step of searched masks")
    mask_weight: float = Field(default=1e-4, ge=0, description="weight of the prior of searched masks")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="where the search runs")


ConfigT = TypeVar("ConfigT", bound=TextMatchingConfig)


@dataclass(frozen=True)
class Task:
    """One observed gradient, ready for a search.

    Attributes:
        table: the embedding (V, d) that the client received.
        words: what the gradient says about the tokens.
        labels: granted labels, or the lengths of the sentences (B,) where next words are searched.
        lengths: of the sentences.
        places: vectors a sentence: one more than tokens where next words are searched.
        scale: root mean square of the entries of the table.
    """

    observation: Observation
    setting: Setting
    comparison: Comparison
    masking: Masking
    table: Tensor
    words: Words
    labels: Tensor
    lengths: tuple[int, ...]
    places: int
    scale: float

    def tokens(self, vectors: Tensor) -> Tensor:
        """Return the nearest tokens of vectors (B, places, d), -1 behind the ends, shape (B, T)."""
        found = nearest_tokens(vectors[:, : self.observation.spec.shape[0]], self.table, self.words.read)
        places = torch.arange(found.shape[1], device=found.device)
        ends = torch.tensor(self.lengths, device=found.device)
        return found.masked_fill(places >= ends[:, None], -1).cpu()

    def drawn(self, generator: torch.Generator) -> Tensor:
        """Return a random dummy (B, places, d): vectors of tokens that were read where these are known, else noise."""
        shape = (len(self.lengths), self.places)
        if self.words.read is None or not len(self.words.read):
            return self.scale * torch.randn((*shape, self.table.shape[1]), generator=generator)
        chosen = self.words.read[torch.randint(len(self.words.read), shape, generator=generator)]
        return self.table.cpu()[chosen]


class TextMatching(Attack[ConfigT]):
    """An attack that matches one gradient of a text. Authors write `rows`."""

    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several steps, models without an embedding of tokens, and labels that nothing tells."""
        try:
            embedding_of(observation)
        except NotApplicable as reason:
            return str(reason)
        if observation.labels is None and not predicts_words(observation):
            return "the labels are no next words, and the threat model does not grant them"
        if not explains(observation):
            return "the clients' loss is not the mean cross-entropy of next words"
        return one_gradient_only(observation)

    @abstractmethod
    def rows(self, task: Task, generator: torch.Generator, on_step: OnStep) -> list[Found]:
        """Return the ends of all descents."""

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Search, and return the nearest tokens of the best end."""
        task = self.prepared(observation)
        rows = self.rows(task, generator, _told_in_tokens(on_step, task))
        best = best_of(rows, task.labels, task.comparison.name)
        guess = task.tokens(best.inputs.to(task.table))
        labels = observation.labels if observation.labels is not None else torch.zeros(len(guess), dtype=torch.long)
        distance = self._distance(task, guess, best.masks)
        facts = {**best.facts, "distance of the tokens' gradient": distance}
        return replace(best, inputs=guess, labels=labels, facts=facts, is_exact=distance < _EXACT)

    def prepared(self, observation: Observation) -> Task:
        """Return what a search needs; the observed model stays as it is."""
        name, _ = embedding_of(observation)
        observation = _as_gradient(observation)
        words, lengths = words_of(observation), lengths_of(observation)
        sites = self._sites(observation)
        setting = setting_of(observation, sites, True, self.config.device)
        table = setting.model.get_submodule(name).get_parameter("weight").detach()
        setting = replace(setting, names=tuple(own for own in setting.names if own != f"{name}.weight"))
        read_vectors(setting.model, name)
        if observation.labels is not None:
            comparison: Comparison = GeneralComparison(setting, [observation])
            labels = observation.labels
        else:
            following = torch.arange(observation.spec.classes) if words.following is None else words.following
            next_words = NextWords(table, following.to(table.device), self.config.temperature)
            comparison = VectorComparison(setting, [observation], next_words)
            labels = torch.tensor(lengths)
        return Task(
            observation=observation,
            setting=setting,
            comparison=comparison,
            masking=self._masking(observation, sites),
            table=table,
            words=words,
            labels=labels,
            lengths=lengths,
            places=observation.spec.shape[0] + (observation.labels is None),
            scale=float(table.square().mean().sqrt()),
        )

    def _sites(self, observation: Observation) -> tuple[DropoutSite, ...]:
        if observation.masks is not None:
            return observation.sites
        return searched_sites(observation) if self.config.unknown_masks == "searched" else ()

    def _masking(self, observation: Observation, sites: tuple[DropoutSite, ...]) -> Masking:
        if observation.masks is not None:
            return GivenMasks(observation.masks) if sites else NoMasks()
        return unknown_masks(sites, 1, self.config.mask_weight)

    def _distance(self, task: Task, guess: Tensor, masks: Masks | None) -> float:
        known = task.observation.masks[0] if task.observation.masks is not None else masks
        return completed(task.observation, guess, task.words, known or ()).distance


def _as_gradient(observation: Observation) -> Observation:
    """Return the observation of one step as that of the gradient behind it, in the gradient's own scale."""
    weight = gradient_weight(observation)
    tensors = {name: tensor / weight for name, tensor in observation.update.tensors.items()}
    return replace(observation, update=replace(observation.update, kind="gradient", tensors=tensors))


def _told_in_tokens(on_step: OnStep, task: Task) -> OnStep:
    """Report guesses as tokens."""
    return lambda step: on_step(replace(step, guess=task.tokens(step.guess)))
