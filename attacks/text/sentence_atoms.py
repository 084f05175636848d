"""Sentences as atoms: a batch's gradient as a sum, with weights above zero, of the gradients of a few candidates.

The idea of SOMP (Li, Li 2026, arXiv 2603.16761): the gradient of a batch is the mean of those of its sentences, so a
sparse non-negative fit of candidates' gradients tells which of them it holds. Candidates grow from left to right by
what two attention layers read (`_beam`). Orthogonal matching pursuit takes the candidate that fits best what is
not yet explained, fits all weights again, and tries to change a word of it. Weights come out as 1 / B, or as twice that
for a sentence that stands there twice. Only the paper's abstract was read. Gradients are compared in a sketch of 4096
numbers (sums of randomly signed entries, which keep inner products on average), and what follows a sentence is tried
out.

Threat model: honest-but-curious server, one gradient, fewer tokens in the batch than the model is wide. Known dropout
masks are used, unknown ones are left out. Exact only if the true sentences are among the candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.client_gradient import client_gradient
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import no_guess
from attacks.core.tolerances import TINY
from attacks.text._beam import Pool, apart, grown, pool_of, readers_of, unreadable
from attacks.text._sentences import behind, explains, with_labels
from attacks.text._words import lengths_of, words_of
from fedsim.core.hooks import Attack, Effort
from fedsim.core.registry import attack
from fedsim.core.types import Config, Modality, Observation, OnStep, Reconstruction, Step, Tensors

_SIZE = 4096
_ENOUGH = 1e-3
_GAIN = 0.01
_EXACT = 1e-4
_MOST_ENDINGS = 64


class SentenceAtomsConfig(Config):
    """Settings of the sparse fit."""

    beam: int = Field(default=8, ge=1, description="prefixes a sentence of the batch that are kept at each length")
    candidates: int = Field(default=10, ge=1, description="candidate sentences a sentence of the batch")
    overlap: float = Field(
        default=0.7, gt=0, le=1, description="share of equal places above which two candidates count as one"
    )
    endings: int = Field(default=16, ge=1, description="tokens that are tried behind every candidate")
    changes: int = Field(default=100, ge=0, description="words that are tried in other places of a chosen sentence")


class Atom(NamedTuple):
    """A candidate sentence (t,), the token behind it, the row of the batch whose masks it has, and its gradient."""

    sentence: Tensor
    last: int
    row: int
    gradient: Tensor


@dataclass(frozen=True)
class Fit:
    """Chosen atoms, by number, with their weights; and the share of the observed gradient that they leave."""

    chosen: tuple[int, ...]
    weights: tuple[float, ...]
    left: float


@final
@attack("sentence-atoms", summary="sparse fit of candidate sentences' gradients", paper="2603.16761", aliases=("somp",))
class SentenceAtoms(Attack[SentenceAtomsConfig]):
    """Grows candidates, then fits."""

    effort: ClassVar[Effort] = "search"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse what no candidates grow from, and labels that are neither granted nor next words."""
        if observation.labels is not None or not explains(observation):
            return "it needs a language model whose loss is the mean cross-entropy of next words it does not know"
        return unreadable(observation) or one_gradient_only(observation)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Return the sentences of the fit, the heaviest first; one of double weight twice."""
        batch, length = observation.batch_size or 1, observation.spec.shape[0]
        sketch = Sketch(observation, generator)
        target = sketch.of(observation.update.tensors)
        pool, candidates = self._candidates(observation, generator)
        atoms = [atom for sentence, row in candidates for atom in self._atoms(observation, sketch, sentence, row)]
        fit, history = Fit((), (), 1.0), list[tuple[int, float]]()
        for step in range(1, batch + 1):
            further = pursued(atoms, target, fit)
            if fit.left - further.left < _GAIN * fit.left:
                break
            atoms, fit = self._ended(observation, sketch, atoms, target, further)
            atoms, fit = self._changed(observation, sketch, atoms, target, fit, pool, generator)
            history.append((step, fit.left))
            on_step(Step(0, step, batch, fit.left, fit.left, _rows(atoms, fit, batch, length)))
            if fit.left < _ENOUGH:
                break
        if not fit.chosen:
            return no_guess(observation, "no candidate sentence explains any of the gradient")
        guess = _rows(atoms, fit, batch, length)
        facts = {"candidates": float(len(candidates)), "atoms": float(len(atoms)), "chosen": float(len(fit.chosen)),
                 "share of the gradient left": fit.left,
                 "largest weight times the batch size": batch * max(fit.weights)}  # fmt: skip
        none = torch.zeros(len(guess), dtype=torch.long)
        knows_masks = not observation.sites or observation.masks is not None
        return Reconstruction(
            guess, none, None, fit.left, len(history), len(history), tuple(history), "sparse fit",
            facts=facts, is_exact=fit.left < _EXACT and knows_masks,
        )  # fmt: skip

    def _candidates(
        self, observation: Observation, generator: torch.Generator
    ) -> tuple[Pool, list[tuple[Tensor, int]]]:
        """Return the tokens to try, and candidates with the row whose masks they have."""
        readers, lengths = readers_of(observation), lengths_of(observation)
        pool = pool_of(observation, readers[0], lengths)
        found: list[tuple[Tensor, int]] = []
        for row, reader in enumerate(readers):
            share = len(lengths) if len(readers) == 1 else 1
            ends = grown(reader, pool, lengths, self.config.beam * share, generator, lambda _prefixes, _score: None)
            for length in sorted(ends, reverse=True):
                kept = apart(list(ends[length].prefixes), self.config.overlap, self.config.candidates * share)
                found += [(sentence, row) for sentence in kept]
        return pool, found

    def _atoms(self, observation: Observation, sketch: Sketch, sentence: Tensor, row: int) -> list[Atom]:
        """Return one atom for every token that may stand behind a sentence."""
        endings = behind(observation, words_of(observation))[: self.config.endings].tolist()
        return [Atom(sentence, last, row, _gradient(observation, sketch, sentence, last, row)) for last in endings]

    def _ended(
        self, observation: Observation, sketch: Sketch, atoms: list[Atom], target: Tensor, fit: Fit
    ) -> tuple[list[Atom], Fit]:
        """Try every further token behind the sentence that was chosen last, as long as it is not all explained."""
        for last in behind(observation, words_of(observation))[self.config.endings : _MOST_ENDINGS].tolist():
            if fit.left < _ENOUGH:
                break
            atom = atoms[fit.chosen[-1]]
            gradient = _gradient(observation, sketch, atom.sentence, last, atom.row)
            other = Atom(atom.sentence, last, atom.row, gradient)
            tried = fitted([*atoms, other], target, (*fit.chosen[:-1], len(atoms)))
            if tried.left < fit.left:
                atoms, fit = [*atoms, other], tried
        return atoms, fit

    def _changed(
        self,
        observation: Observation,
        sketch: Sketch,
        atoms: list[Atom],
        target: Tensor,
        fit: Fit,
        pool: Pool,
        generator: torch.Generator,
    ) -> tuple[list[Atom], Fit]:
        """Try other words in the sentence that was chosen last, as long as it is not all explained; keep what helps."""
        for _ in range(self.config.changes):
            if fit.left < _ENOUGH:
                break
            atom = atoms[fit.chosen[-1]]
            place = int(torch.randint(len(atom.sentence), (1,), generator=generator))
            sentence = atom.sentence.clone()
            sentence[place] = pool.tokens[torch.randint(len(pool.tokens), (1,), generator=generator)]
            other = Atom(sentence, atom.last, atom.row, _gradient(observation, sketch, sentence, atom.last, atom.row))
            tried = fitted([*atoms, other], target, (*fit.chosen[:-1], len(atoms)))
            if tried.left < fit.left:
                atoms, fit = [*atoms, other], tried
        return atoms, fit


class Sketch:
    """A fixed random linear map of gradients to 4096 numbers: sums of randomly signed entries."""

    def __init__(self, observation: Observation, generator: torch.Generator) -> None:
        """Draw the map for the tensors that are shared."""
        self.names = tuple(observation.update.tensors)
        count = sum(tensor.numel() for tensor in observation.update.tensors.values())
        self._size = min(_SIZE, count)
        self._place = torch.randint(self._size, (count,), generator=generator)
        self._sign = 2.0 * torch.randint(2, (count,), generator=generator).double() - 1.0

    def of(self, tensors: Tensors) -> Tensor:
        """Return the sketch of a gradient, double."""
        whole = torch.cat([tensors[name].detach().double().flatten() for name in self.names])
        return torch.zeros(self._size, dtype=torch.float64).index_add_(0, self._place, self._sign * whole)


def pursued(atoms: Sequence[Atom], target: Tensor, fit: Fit) -> Fit:
    """Return the fit with one atom more: the one with the largest cosine to what is left of the target."""
    dictionary = torch.stack([atom.gradient for atom in atoms])
    left = target.clone()
    for number, weight in zip(fit.chosen, fit.weights, strict=True):
        left -= weight * dictionary[number]
    cosines = dictionary @ left / dictionary.norm(dim=1).clamp_min(TINY)
    cosines[list(fit.chosen)] = -torch.inf
    return fitted(atoms, target, (*fit.chosen, int(cosines.argmax())))


def fitted(atoms: Sequence[Atom], target: Tensor, chosen: tuple[int, ...]) -> Fit:
    """Return the non-negative weights of chosen atoms that explain the target best."""
    from scipy.optimize import nnls  # noqa: PLC0415 - takes long to import

    columns = torch.stack([atoms[number].gradient for number in chosen], 1)
    weights, residual = nnls(columns.numpy(), target.numpy())
    return Fit(chosen, tuple(weights.tolist()), float(residual) / max(float(target.norm()), TINY))


def _gradient(observation: Observation, sketch: Sketch, sentence: Tensor, last: int, row: int) -> Tensor:
    """Return the sketched gradient of one sentence alone."""
    whole = torch.full((1, observation.spec.shape[0]), -1)
    whole[0, : len(sentence)] = sentence
    inputs, labels = with_labels(whole, torch.tensor([last]))
    sites, masks = (), ()
    if observation.masks is not None:
        sites, masks = observation.sites, tuple(mask[row : row + 1] for mask in observation.masks[0])
    own = tuple(replace(site, shape=mask.shape) for site, mask in zip(sites, masks, strict=True))
    return sketch.of(client_gradient(replace(observation, sites=own), inputs, labels, masks))


def _rows(atoms: Sequence[Atom], fit: Fit, batch: int, length: int) -> Tensor:
    """Return the chosen sentences (N, T), -1 behind their ends; as often as their weight times the batch size says."""
    ranked = sorted(zip(fit.weights, fit.chosen, strict=True), reverse=True)
    often = [number for weight, number in ranked for _ in range(max(1, round(weight * batch)))][:batch]
    rows = torch.full((len(often), length), -1)
    for place, number in enumerate(often):
        rows[place, : len(atoms[number].sentence)] = atoms[number].sentence
    return rows
