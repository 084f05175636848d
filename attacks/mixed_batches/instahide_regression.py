"""InstaHide solved by regression: encodings of several rounds have the same images behind their absolute values.

InstaHide (Huang et al. 2020, arXiv 2010.02772) trains on y = s (W x), s = +-1 at random for every pixel. An exact
attack returns y from every gradient, and the last layer's gradient the mixed labels, which are W where no two images
share a class; elsewhere encodings of one image are found by how alike their absolute values are. Then, after Carlini et
al. 2021, arXiv 2011.05315,

    min over x of || |W x| - |y| ||,    x in the range of pixels,

over the encodings of every round alone, and over those of all rounds once images that look alike are linked. The paper
has 5,000 encodings of 100 images from a challenge, no gradients, and learns which encodings belong together.

Threat model: honest-but-curious server that keeps what a client sent in earlier attacked rounds, and knows the
defenses. Needs a model whose mixtures an exact attack recovers.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch

from attacks.core.preconditions import one_gradient_only
from attacks.core.results import no_guess
from attacks.mixed_batches._undo_defenses import has_random_signs, mixes, seen_exactly, undone
from fedsim.core.hooks import Attack, Effort
from fedsim.core.registry import attack
from fedsim.core.types import Config, Knowledge, Observation, OnStep, Reconstruction, Step


class InstahideRegressionConfig(Config):
    """No settings."""


@final
@attack("instahide-regression", summary="solves InstaHide's encodings of several rounds", paper="2011.05315")
class InstahideRegression(Attack[InstahideRegressionConfig]):
    """Encodings, labels, weights, images."""

    effort: ClassVar[Effort] = "search"
    needs: ClassVar[frozenset[Knowledge]] = frozenset({"defenses", "earlier-rounds"})
    undoes: ClassVar[bool] = True
    over_rounds: ClassVar[bool] = True

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse where nothing is mixed under random signs."""
        if not (mixes(observation) and has_random_signs(observation)):
            return "no defense in use mixes examples under random signs"
        return one_gradient_only(observation)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Recover the encodings, then solve them together with those of earlier rounds."""
        seen = seen_exactly(observation, generator)
        if seen is None:
            return no_guess(observation, "no exact attack recovers the encodings from this gradient")
        found = undone(observation, seen, generator)
        if found is None:
            return no_guess(observation, "the last layer's gradient does not tell the labels of the encodings")
        on_step(Step(0, 1, 1, found.objective, found.objective, found.inputs))
        return found
