"""subspace-distance: grow sentences whose layer inputs are closest to the spans of two attention layers' gradients.

Sentences grow from left to right in a beam. Each token's distance is divided by its usual distance behind random
prefixes. Known noise is used as stated; unknown noise is measured in directions that the tokens leave free. Repeats of
a text's first token look like its continuation; counts of words exclude this if the output layer is shared. Unknown
masks blur both distances: the right tokens are still nearest, the right prefixes are not in long sentences or batches.
With granted masks every candidate is computed with the masks of its position.

Idea: the distance of a candidate from the span ranks tokens in the first layer and prefixes in the second, where DAGER
    makes a binary decision. With a soft projector noise only costs accuracy. The gradient selects among the final
    beam.
Equation: D(x) = |x - P x|^2 / |x|^2, P = sum_k r_k / (r_k + m) v_k v_k^T, r_k the signal of direction k above noise.
Assumes: honest-but-curious server, a single gradient, fewer tokens in the batch than the model is wide. Known dropout
    masks are used. Shared gradients of embedding and output layer give words and lengths.
Recovers: sentences, exactly without noise; under noise or unknown masks some words.
Fails: batches under noise or unknown masks; as many tokens as the width; models without two attention layers.
Source: inspired by TIGER, Kalikman, Petrov, Dimitrov, Vechev 2026, arXiv 2606.18312. Only its abstract was read; its
    search over free vectors is not used: in an untrained model mixtures of words lie in both spans.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from attacks.core.outlooks import outlook_of
from attacks.core.preconditions import one_gradient_only
from attacks.core.tolerances import EXACT_TEXT
from attacks.text._beam import PrefixBeam, apart, grow_beam, pool_of, readers_of, unreadable
from attacks.text._examples import LISTS
from attacks.text._sentences import complete, distance_of, explains
from attacks.text._words import lengths_of, words_of
from fedsim.core.hooks import Attack, CostEstimate, Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Config, Modality, Observation, OnStep, Reconstruction, Step

_NEVER = 1e9


class SubspaceDistanceConfig(Config):
    """Settings of the subspace distance."""

    beam: int = Field(default=16, ge=1, description="prefixes per sentence that are kept at each length")
    overlap: float = Field(
        default=0.7, gt=0, le=1, description="share of equal positions above which two sentences count as the same"
    )


@final
@attack(
    "subspace-distance",
    summary="sentences closest to two attention spans, through noise",
    tier="core",
    paper="2606.18312",
    fidelity="inspired",
    deviates="only the abstract was read; a beam replaces its search over vectors",
)
class SubspaceDistance(Attack[SubspaceDistanceConfig]):
    """Ranks tokens, then prefixes, then whole sentences."""

    effort: ClassVar[Effort] = "search"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})
    example: ClassVar[Tables] = {**LISTS, "attacks": [{"beam": 1}]}

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse models without two causal attention layers, hidden gradients, and too many tokens."""
        return unreadable(observation) or one_gradient_only(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect forward passes on the beam's prefixes."""
        return outlook_of(observation, 30.0, 0.6, "a beam holds the sentences nearest to two spans")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Return one sentence for each sentence of the batch."""
        readers, lengths = readers_of(observation), lengths_of(observation)
        pool = pool_of(observation, readers[0], lengths)
        longest, beams = max(lengths), list[dict[int, PrefixBeam]]()
        for number, reader in enumerate(readers):

            def report(prefixes: Tensor, score: float, before: int = number * longest) -> None:
                on_step(Step(0, before + prefixes.shape[1], len(readers) * longest, score, score, prefixes))

            width = self.config.beam * (len(lengths) if len(readers) == 1 else 1)
            beams.append(grow_beam(reader, pool, lengths, width, generator, report))
        best = self._choose_sentences(beams[0], lengths) if len(beams) == 1 else _assign(beams, lengths)
        ends = beams * len(best) if len(beams) == 1 else beams
        options = [
            list(end[len(sentence)].prefixes[: self.config.beam]) for end, sentence in zip(ends, best, strict=True)
        ]
        guess, distance = _settle(observation, _fill(best, observation.spec.shape[0]), options)
        first, second = readers[0].spaces
        diagnostics = {"size of the first span": first.size, "size of the second span": second.size,
                 "noise of the second span": second.noise, "tokens tried": float(len(pool.tokens)),
                 "distance of the nearest token": pool.nearest}  # fmt: skip
        knows_masks = not observation.sites or observation.masks is not None
        is_exact = distance < EXACT_TEXT and knows_masks and explains(observation)
        return Reconstruction.of(
            guess,
            objective=distance,
            iterations=len(readers) * longest,
            stop_reason="sentences grown",
            diagnostics=diagnostics,
            is_exact=is_exact,
        )

    def _choose_sentences(self, ends: dict[int, PrefixBeam], lengths: Sequence[int]) -> list[Tensor]:
        """Return a sentence for every length, long sentences first: the best that is not yet chosen."""
        chosen: list[Tensor] = []
        for length in sorted((size for size in lengths if size in ends), reverse=True):
            sentences = apart([*chosen, *ends[length].prefixes], self.config.overlap, len(chosen) + 1)
            chosen.append(sentences[len(chosen)] if len(sentences) > len(chosen) else ends[length].prefixes[0])
        return chosen


def _assign(beams: Sequence[dict[int, PrefixBeam]], lengths: Sequence[int]) -> list[Tensor]:
    """Return the best sentence of each beam, with lengths assigned so that the sum of scores is smallest."""
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - a run without attacks need not wait for SciPy

    costs = np.array([[float(beam[n].scores[0]) if n in beam else math.inf for n in lengths] for beam in beams])
    rows, columns = linear_sum_assignment(np.where(np.isfinite(costs), costs, _NEVER))
    return [beams[row][lengths[column]].prefixes[0] for row, column in zip(rows, columns, strict=True)]


def _settle(observation: Observation, guess: Tensor, options: list[list[Tensor]]) -> tuple[Tensor, float]:
    """Return the batch (B, T) and its gradient distance, after replacing sentences by better candidates of their beam.

    Unknown dropout masks are left out of the distance. The distance is NaN if the labels are unknown.
    """
    if not explains(observation):
        return guess, float("nan")
    masks = () if observation.masks is None or not observation.sites else observation.masks[0]
    words = words_of(observation)
    least, last = complete(observation, guess, words, masks)
    for row, rivals in enumerate(options):
        for rival in rivals:
            if least < EXACT_TEXT:
                return guess, least
            changed = guess.clone()
            changed[row, : len(rival)] = rival
            distance = distance_of(observation, changed, last, masks)
            if distance < least:
                guess, least = changed, distance
    return guess, complete(observation, guess, words, masks).distance


def _fill(sentences: Sequence[Tensor], length: int) -> Tensor:
    """Return sentences as rows (B, T), padded with -1."""
    filled = torch.full((len(sentences), length), -1)
    for row, sentence in zip(filled, sentences, strict=True):
        row[: len(sentence)] = sentence
    return filled
