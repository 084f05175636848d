"""prefix-search: infer or try the prefix length k of Nested Dropout, then search images with that mask as in DIA.

If no column reveals k (k = D, noise, a classifier that is not shared), every k with odds above a millionth gets
`tried_for` iterations from the same dummy input, all in one computation, and the lowest objective decides. The grant
`dropout-rates` includes the position and the odds of the cut. The record's `extras` give the difference between k and
the client's k.

Idea: features truncated to their first k channels leave exact zeros in the gradient of the next layer, in all examples
    alike, so k is the last nonzero column. If no column is zero, a short descent is run for every likely k.
Equation: dL/dW_j = (1/B) sum over examples of delta h_j = 0 for every j > k, with delta = dL/dz and h the features.
Assumes: honest-but-curious server, a single gradient; known truncated layers and known probabilities of k.
Recovers: images, masks, and k of every truncation.
Fails: with ReLU the last channels of the prefix may be zero too: then a shorter k explains the gradient as well and is
    inferred. A short k leaves little of the example in the gradient.
Source: the search is DIA's, Scheliga, Maeder, Seeland 2023, arXiv 2208.06163; Nested Dropout: Chen et al. 2022, arXiv
    2206.13140.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.defense_facts import sends_part
from attacks.core.mask_readout_rules import linear_behind
from attacks.core.matching.attack import MaskSearchConfig, MatchingAttack
from attacks.core.matching.descent import Descent, RestartResult, VictimGroup, descend
from attacks.core.matching.unknowns import Unknowns
from fedsim.core.hooks import Effort, Tables
from fedsim.core.nets.masks import prefix_mask
from fedsim.core.registry import attack
from fedsim.core.types import Observation, Reconstruction, View

_NAME = "prefix-search"
_UNLIKELY = 1e-6
Known = dict[int, Tensor]


class PrefixSearchConfig(MaskSearchConfig):
    """Settings of the search."""

    tried_for: int = Field(
        default=100, ge=1, description="iterations for every k that is tried, where k cannot be read"
    )


@final
@attack(
    _NAME,
    summary="Nested Dropout's k read off the gradient or tried, then DIA with it",
    tier="research",
    related="2206.13140",
)
class PrefixSearch(MatchingAttack[PrefixSearchConfig]):
    """Infers the length of every truncation, then searches images."""

    effort: ClassVar[Effort] = "descent"
    views: ClassVar[frozenset[View]] = frozenset({"single-update"})
    example: ClassVar[Tables] = {"components": [{"name": "nested-dropout", "eta": 4.0}]}

    @classmethod
    def settings_for_budget(cls, gradients: int) -> dict[str, Any]:
        """Return the settings with which DIA needs the fewest iterations."""
        return {"max_iterations": gradients, "schedule": "cosine", "sign": "soft"}

    def estimate_success(self, observation: Observation) -> tuple[float, str]:
        """Expect more than of descents that do not know the prefix."""
        return 0.35, "the kept prefix is known or tried"

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse models without Nested Dropout, batches with one k per example, and several steps."""
        if not _cuts(observation):
            return "no layer of the model keeps a prefix of its features"
        if (observation.batch_size or 1) > 1 and any(observation.sites[cut].per_example for cut in _cuts(observation)):
            return "every example of the batch has a k of its own; the gradient shows only the longest"
        return super().not_applicable(observation)

    def unknowns(self, observations: Sequence[Observation]) -> Unknowns:
        """Return the unknown masks; inferred prefixes are fixed."""
        return self._masks(observations[0], [read_prefixes(observation) for observation in observations])

    def run_search(self, victims: VictimGroup) -> tuple[list[RestartResult], str]:
        """Infer the prefixes of every victim, then descend with them."""
        known = [
            self._known_of(*victim)
            for victim in zip(victims.observations, victims.labels, victims.generators, strict=True)
        ]
        descent = self._prepare_descent(victims, known)
        return self.run_descent(descent), descent.comparison.name

    def report(
        self, observation: Observation, rows: Sequence[RestartResult], labels: Tensor, path: str
    ) -> Reconstruction:
        """Return the best row with its prefixes."""
        best, cuts = super().report(observation, rows, labels, path), _cuts(observation)
        unread = len(cuts) - len(read_prefixes(observation))
        lengths = {observation.sites[i].name: best.masks[i].flatten(0, -2)[0].sum() for i in cuts} if best.masks else {}
        tried = () if not unread else (f"k was not read at {unread} places, but tried",)
        return replace(
            best,
            notes=(*best.notes, *tried),
            diagnostics={
                **best.diagnostics,
                "places where k was read": len(cuts) - unread,
                **{f"k at '{name}'": float(length) for name, length in lengths.items()},
            },
            extras={f"nested-dropout.{name}": length for name, length in lengths.items()},
        )

    def _masks(self, observation: Observation, known: Sequence[Known]) -> Unknowns:
        return self.config.searched_masks(observation.sites, known=tuple(known))

    def _prepare_descent(self, victims: VictimGroup, known: Sequence[Known]) -> Descent:
        search = replace(self.plan(victims), unknowns=self._masks(victims.observations[0], known))
        return self.descent(victims, search)

    def _known_of(self, observation: Observation, labels: Tensor, generator: torch.Generator) -> Known:
        """Return the masks of all prefixes: inferred, or with the lowest objective after a short descent."""
        guesses = list(_guesses(observation, read_prefixes(observation)))
        if len(guesses) == 1:
            return guesses[0]
        seed, settings = generator.initial_seed(), self.descent_settings()._replace(iterations=self.config.tried_for)
        objectives: list[float] = []
        size = self.max_victims(observation)
        for chunk in (guesses[start : start + size] for start in range(0, len(guesses), size)):
            copies = [observation] * len(chunk)
            starts = [torch.Generator().manual_seed(seed) for _ in chunk]  # the same dummy under every k
            victims = VictimGroup(copies, [labels] * len(chunk), starts, [_silent] * len(chunk))
            rows = descend(replace(self._prepare_descent(victims, chunk), settings=settings, restarts=1))
            objectives += [row.objective for row in rows]
        return guesses[min(range(len(guesses)), key=objectives.__getitem__)]


def read_prefixes(observation: Observation) -> Known:
    """Return the masks that the gradient of the next linear layer determines, by index of the site.

    Nothing is inferred from a gradient with a nonzero last column: either k = D, or the gradient is not exact.
    """
    cuts = _cuts(observation)
    if not cuts or sends_part(observation):
        return {}
    read: Known = {}
    for index, name in linear_behind(observation).items():
        gradient = observation.update.tensors[f"{name}.weight"]
        alive = (gradient != 0).any(0).nonzero().flatten()
        if index in cuts and len(alive) and int(alive[-1]) + 1 < gradient.shape[1]:
            read[index] = prefix_mask(int(alive[-1]) + 1, observation.sites[index].shape, gradient)
    return read


def _guesses(observation: Observation, read: Known) -> Iterator[Known]:
    """Yield the masks of every combination of lengths at sites that could not be inferred."""
    like = next(observation.model.parameters()).detach()
    unread = [index for index in _cuts(observation) if index not in read]
    lengths = [[k for k, odds in enumerate(observation.sites[i].odds, 1) if odds > _UNLIKELY] for i in unread]
    for combination in itertools.product(*lengths):
        shapes = (observation.sites[index].shape for index in unread)
        masks = (prefix_mask(k, shape, like) for k, shape in zip(combination, shapes, strict=True))
        yield {**read, **dict(zip(unread, masks, strict=True))}


def _cuts(observation: Observation) -> list[int]:
    return [index for index, site in enumerate(observation.sites) if site.odds]


def _silent(_step: object) -> None:
    """Report nothing."""
