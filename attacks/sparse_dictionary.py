"""Exact batches from a first linear layer: zeros of dropout or ReLU tell the examples apart.

The weight gradient is a sum of outer products, G = D X with columns of D for the examples' output gradients and rows of
X for their inputs. The gradient alone shows two subspaces, not the factors; but D has many exact zeros, one for every
unit that was dropped or inactive, and X follows from the sparsest basis of the column space. SPEAR (Dimitrov et al.
2024, arXiv 2403.03945) draws that basis at random from ReLU zeros; SPEAR++ (Bakarsky et al. 2025, arXiv 2510.24200)
finds it by dictionary learning. Dropout behind any activation supplies the same zeros: it makes batches separable
instead of hiding them. Scale and sign come from the bias or, without one, from the next layer's row space; the masks of
all layers and the labels follow layer by layer.

Threat model: honest-but-curious server, one exact gradient; labels and batch size need not be known. Without the
dropout rates the images are as exact, but only the masks of the first layer would be, so none are returned.
Fails without zeros (GELU without dropout), with too few of them for the batch (p = 0.1 beyond about 4 of 512 units),
and under noise, which leaves no exact zero; it then says so and returns grey images. With ReLU, sparse mixtures may
pass for examples: the objective tells.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from attacks._factors import Factors, batch_refusal, factors_of, hopeless, separated
from attacks._failure import given_up, grey_images
from attacks._layers import first_linear
from attacks._sparsest import Sparse, nothing_found, searched
from fedsim.hooks import Attack
from fedsim.registry import attack
from fedsim.types import Config, Observation, OnStep, Reconstruction, Step, View


class SparseDictionaryConfig(Config):
    """Settings of the search. A round of 1,024 starts takes about half a second on one core for 512 units."""

    rounds: int = Field(default=4, ge=1, description="most rounds before giving up")
    starts: int = Field(default=1024, ge=1, description="random starts a round")
    rank_tolerance: float = Field(
        default=1e-5, gt=0, lt=1, description="singular values below this share of the largest count as zero"
    )


@final
@attack("sparse-dictionary", summary="exact batches from zeros of dropout or ReLU (SPEAR++)", paper="2510.24200")
class SparseDictionary(Attack[SparseDictionaryConfig]):
    """Sparsest basis of the column space of the first weight gradient."""

    views: ClassVar[frozenset[View]] = frozenset({"single-update", "sum"})

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several steps, single examples, and models without a first linear layer whose scale can be found."""
        return batch_refusal(observation)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Search in rounds until the basis is complete, then solve for the examples."""
        layer = first_linear(observation)
        assert layer is not None
        factors = factors_of(observation, layer, self.config.rank_tolerance)
        rank = len(factors.right)
        size = observation.batch_size or rank
        reason = hopeless(factors, size)
        if reason is not None:
            return given_up(observation, size, 0, reason, {})
        found, rounds = self._rounds(factors, generator, on_step, grey_images(observation, size))
        if len(found.vectors) < rank:
            reason = (
                f"gave up: {len(found.vectors)} of {rank} examples stand out in {rounds} rounds, too few exact zeros"
            )
            return given_up(observation, size, rounds, reason, {})
        return separated(observation, layer, factors, found, rounds, {})

    def _rounds(
        self, factors: Factors, generator: torch.Generator, on_step: OnStep, grey: Tensor
    ) -> tuple[Sparse, int]:
        rank = len(factors.right)
        found = nothing_found(rank)
        for round_ in range(1, self.config.rounds + 1):
            found = searched(factors.basis, found, self.config.starts, generator)
            missing = 1.0 - len(found.vectors) / rank
            on_step(Step(0, round_, self.config.rounds, missing, missing, grey))
            if missing == 0.0:
                return found, round_
        return found, self.config.rounds
