"""sentence-atoms: fit a batch's gradient by a few candidate sentences' gradients with non-negative weights.

Idea: a batch's gradient is the mean of its sentences' gradients, so a sparse fit finds the sentences among candidates,
    grown as in subspace-distance. Orthogonal matching pursuit adds one sentence at a time, refits all weights, and
    tries to change a word of it.
Equation: g* = sum_k w_k g(sentence_k), w_k >= 0, few above 0: 1 / B, or twice that for a repeated sentence.
Assumes: honest-but-curious server, a single gradient, fewer tokens in the batch than the model is wide; labels not
    granted. Gradients are compared in a random sketch of 4096 numbers. Known masks are used, unknown masks left out.
Recovers: sentences, with repetitions; the token after each sentence is found by trials.
Fails: when the true sentences are not among the candidates, as under noise and unknown masks.
Source: inspired by SOMP, Li, Li 2026, arXiv 2603.16761, of which only the abstract was read.
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
from attacks.text._beam import TokenPool, apart, grow_beam, pool_of, readers_of, unreadable
from attacks.text._examples import LISTS
from attacks.text._sentences import behind, explains, with_labels
from attacks.text._words import lengths_of, words_of
from fedsim.core.hooks import Attack, Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Config, Modality, Observation, OnStep, Reconstruction, Step, Tensors

_SIZE = 4096
_ENOUGH = 1e-3
_GAIN = 0.01
_EXACT = 1e-4
_MOST_ENDINGS = 64


class SentenceAtomsConfig(Config):
    """Settings of the sparse fit."""

    beam: int = Field(default=8, ge=1, description="prefixes per sentence of the batch that are kept at each length")
    candidates: int = Field(default=10, ge=1, description="candidate sentences per sentence of the batch")
    overlap: float = Field(
        default=0.7, gt=0, le=1, description="share of equal positions above which two candidates count as the same"
    )
    endings: int = Field(default=16, ge=1, description="number of tokens that are tried behind every candidate")
    changes: int = Field(default=100, ge=0, description="number of word changes that are tried in each chosen sentence")


class Atom(NamedTuple):
    """A candidate sentence (t,), the token after it, the row of the batch whose masks it uses, and its gradient."""

    sentence: Tensor
    last: int
    row: int
    gradient: Tensor


@dataclass(frozen=True)
class Fit:
    """Indices of chosen atoms, their weights, and the residual share of the observed gradient."""

    chosen: tuple[int, ...]
    weights: tuple[float, ...]
    left: float


@final
@attack(
    "sentence-atoms",
    summary="sparse fit of candidate sentences' gradients",
    paper="2603.16761",
    fidelity="inspired",
    deviates="only the abstract was read; candidates come from subspace-distance",
)
class SentenceAtoms(Attack[SentenceAtomsConfig]):
    """Grows candidate sentences, then fits their gradients."""

    effort: ClassVar[Effort] = "search"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})
    example: ClassVar[Tables] = {**LISTS, "attacks": [{"beam": 1, "candidates": 2, "endings": 2, "changes": 4}]}

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse observations without grown candidates, granted labels, and labels that are not next words."""
        if observation.labels is not None or not explains(observation):
            return (
                "it needs a language model with mean next-word cross-entropy as loss, and labels that are not granted"
            )
        return unreadable(observation) or one_gradient_only(observation)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Return the sentences of the fit, largest weights first; a sentence of double weight is returned twice."""
        batch, length = observation.batch_size or 1, observation.spec.shape[0]
        sketch = Sketch(observation, generator)
        target = sketch.of(observation.update.tensors)
        pool, candidates = self._candidates(observation, generator)
        atoms = [atom for sentence, row in candidates for atom in self._atoms(observation, sketch, sentence, row)]
        fit, history = Fit((), (), 1.0), list[tuple[int, float]]()
        for step in range(1, batch + 1):
            further = pursue(atoms, target, fit)
            if fit.left - further.left < _GAIN * fit.left:
                break
            atoms, fit = self._ended(observation, sketch, atoms, target, further)
            atoms, fit = self._change(observation, sketch, atoms, target, fit, pool, generator)
            history.append((step, fit.left))
            on_step(Step(0, step, batch, fit.left, fit.left, _rows(atoms, fit, batch, length)))
            if fit.left < _ENOUGH:
                break
        if not fit.chosen:
            return no_guess(observation, "no candidate sentence explains any of the gradient")
        guess = _rows(atoms, fit, batch, length)
        diagnostics = {
            "candidates": float(len(candidates)),
            "atoms": float(len(atoms)),
            "chosen": float(len(fit.chosen)),
            "share of the gradient left": fit.left,
            "largest weight times the batch size": batch * max(fit.weights),
        }
        knows_masks = not observation.sites or observation.masks is not None
        return Reconstruction.of(
            guess, objective=fit.left, iterations=len(history), history=history, stopped="sparse fit",
            diagnostics=diagnostics, is_exact=fit.left < _EXACT and knows_masks,
        )  # fmt: skip

    def _candidates(
        self, observation: Observation, generator: torch.Generator
    ) -> tuple[TokenPool, list[tuple[Tensor, int]]]:
        """Return the token pool, and candidate sentences with the row whose masks they use."""
        readers, lengths = readers_of(observation), lengths_of(observation)
        pool = pool_of(observation, readers[0], lengths)
        candidates: list[tuple[Tensor, int]] = []
        for row, reader in enumerate(readers):
            share = len(lengths) if len(readers) == 1 else 1
            ends = grow_beam(reader, pool, lengths, self.config.beam * share, generator, lambda _prefixes, _score: None)
            for length in sorted(ends, reverse=True):
                kept = apart(list(ends[length].prefixes), self.config.overlap, self.config.candidates * share)
                candidates += [(sentence, row) for sentence in kept]
        return pool, candidates

    def _atoms(self, observation: Observation, sketch: Sketch, sentence: Tensor, row: int) -> list[Atom]:
        endings = behind(observation, words_of(observation))[: self.config.endings].tolist()
        return [Atom(sentence, last, row, _gradient(observation, sketch, sentence, last, row)) for last in endings]

    def _ended(
        self, observation: Observation, sketch: Sketch, atoms: list[Atom], target: Tensor, fit: Fit
    ) -> tuple[list[Atom], Fit]:
        """Try further tokens after the last chosen sentence, while the gradient is not fully explained."""
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

    def _change(
        self,
        observation: Observation,
        sketch: Sketch,
        atoms: list[Atom],
        target: Tensor,
        fit: Fit,
        pool: TokenPool,
        generator: torch.Generator,
    ) -> tuple[list[Atom], Fit]:
        """Try other words in the last chosen sentence, while the gradient is not fully explained; keep improvements."""
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
        """Sample the map for the shared tensors."""
        self.names = tuple(observation.update.tensors)
        count = sum(tensor.numel() for tensor in observation.update.tensors.values())
        self._size = min(_SIZE, count)
        self._place = torch.randint(self._size, (count,), generator=generator)
        self._sign = 2.0 * torch.randint(2, (count,), generator=generator).double() - 1.0

    def of(self, tensors: Tensors) -> Tensor:
        """Return the sketch of a gradient, double."""
        whole = torch.cat([tensors[name].detach().double().flatten() for name in self.names])
        return torch.zeros(self._size, dtype=torch.float64).index_add_(0, self._place, self._sign * whole)


def pursue(atoms: Sequence[Atom], target: Tensor, fit: Fit) -> Fit:
    """Return the fit extended by the atom with the largest cosine to the residual."""
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
    row_sites = tuple(replace(site, shape=mask.shape) for site, mask in zip(sites, masks, strict=True))
    return sketch.of(client_gradient(replace(observation, sites=row_sites), inputs, labels, masks))


def _rows(atoms: Sequence[Atom], fit: Fit, batch: int, length: int) -> Tensor:
    """Return the chosen sentences (N, T), padded with -1, each round(weight * batch size) times."""
    ranked = sorted(zip(fit.weights, fit.chosen, strict=True), reverse=True)
    often = [number for weight, number in ranked for _ in range(max(1, round(weight * batch)))][:batch]
    rows = torch.full((len(often), length), -1)
    for place, number in enumerate(often):
        rows[place, : len(atoms[number].sentence)] = atoms[number].sentence
    return rows
