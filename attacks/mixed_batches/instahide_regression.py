"""instahide-regression: solve InstaHide's encodings of several rounds for the original images.

Idea: an exact attack returns the encodings y, the last layer's gradient their mixed labels, which are W if no two
    images share a class. Encodings of an image have similar absolute values, in all rounds, and are solved together.
Equation: y = s (W x) with random signs s per pixel; min over x of || |W x| - |y| ||, x in the pixel range.
Assumes: honest-but-curious server that keeps earlier attacked rounds and knows the defenses; a model whose mixtures an
    exact attack recovers; granted labels (mixing does not keep their mean).
Recovers: the images of the batch and their labels.
Fails: convolutions, noise (no exact attack); bright images on both sides of the mean, where x and -x fit equally well.
Source: inspired by Carlini et al. 2021, arXiv 2011.05315; InstaHide: Huang et al. 2020, arXiv 2010.02772.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch

from attacks.core.outlooks import outlook_of
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import no_guess
from attacks.mixed_batches._undo_defenses import has_random_signs, mixes, seen_exactly, undone
from fedsim.core.hooks import Attack, CostEstimate, Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Config, Knowledge, Observation, OnStep, Reconstruction, Step


@final
@attack(
    "instahide-regression",
    summary="solves InstaHide's encodings of several rounds",
    tier="research",
    paper="2011.05315",
    fidelity="inspired",
    deviates="exact attacks and known labels replace its clustering of encodings",
)
class InstahideRegression(Attack[Config]):
    """Recovers encodings, then labels and weights, then images."""

    effort: ClassVar[Effort] = "search"
    needs: ClassVar[frozenset[Knowledge]] = frozenset({"defenses", "earlier-rounds"})
    inverts_augmentation: ClassVar[bool] = True
    uses_earlier_rounds: ClassVar[bool] = True
    example: ClassVar[Tables] = {
        "model": {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.0, "bias": True},
        "defenses": [{"name": "instahide"}],
        "federation": {"rounds": 2, "batch_size": 4},
        "threat": {"rounds": [1, 2]},
    }

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse if no defense mixes examples under random signs."""
        if not (mixes(observation) and has_random_signs(observation)):
            return "no defense in use mixes examples under random signs"
        return one_gradient_only(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect an exact attack on every round."""
        return outlook_of(observation, 600.0, 0.5, "exact attacks recover the encodings of every round")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Recover the encodings, then solve them together with encodings of earlier rounds."""
        seen = seen_exactly(observation, generator)
        if seen is None:
            return no_guess(observation, "no exact attack recovers the encodings from this gradient")
        guess = undone(observation, seen, generator)
        if guess is None:
            return no_guess(observation, "the last layer's gradient does not show the labels of the encodings")
        on_step(Step(0, 1, 1, guess.objective, guess.objective, guess.inputs))
        return guess
