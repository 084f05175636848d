"""continuous-speculative: a small model drafts patches; the model verifies them in a single pass by density ratios.

Idea: given the noise of all steps but the last, a diffusion head's patch is Gaussian, so densities are known.
Equation: x from N(m_q, s_q) is accepted with probability min(1, N(x; m_p, s_p) / N(x; m_q, s_q)); the first rejected
    patch is sampled from (N_p - N_q)+, by rejection. Both models share x_T and the noise of steps T to 2, not of the
    last.
Assumes: a patch-by-patch diffusion model, and a draft model with the same patches and levels.
Leaks: patches per step depend on how well the draft predicts the model; it is lower if only one was trained on an
    image.
Fails: with a draft that is seldom accepted, and heads so small that drafting costs as much as sampling.
Source: Wang et al. 2024, arXiv 2411.11925; its factor of all variances (rule = "paper") is biased if they differ, as
    learned ones do. Block mode follows the published code for models of random order: a rejected patch is resampled in
    place, and no other patch is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.sampler._patch_models import PatchReader, Place, check_draft, order_of, patch_model, places_of
from fedsim.components.sampler._solver import check_finite, classes_of
from fedsim.components.sampler._speculation import LastStep, concat_steps, log_ratio, residual
from fedsim.core.denoisers import find_denoiser, load_denoiser
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import GenerationContext, GenerationInputs, Sampler, Sampling
from fedsim.core.registry import component
from fedsim.core.settings import NameOrFolder
from fedsim.core.types import Config, Event

_TRAINABLE = ("digits-patches-draft", "digits-in-any-order-draft", "photographs-patches-draft")


class ContinuousSpeculativeConfig(Config):
    """Settings of continuous speculative decoding."""

    draft: NameOrFolder = Field(
        default="", description="folder of a trained model, or its name in the cache; empty: the model itself"
    )
    length: int = Field(
        default=4, ge=0, description="maximum number of patches in a draft; 0: a patch per step, without drafts"
    )
    prefill: float = Field(default=0.05, ge=0, le=1, description="share of the patches that are drawn without drafts")
    mode: Literal["causal", "block"] = Field(
        default="causal",
        description="block: patches of a draft depend on the earlier patches only, not on each other; for models of "
        "random order",
    )
    rule: Literal["exact", "paper"] = "exact"
    soft: float = Field(default=1.0, ge=1, description="exponents are divided by its square in the test; 1 is exact")
    is_aligned: bool = Field(default=True, description="whether both models share the noise of all steps but the last")
    temperature: float = Field(default=1.0, gt=0, description="factor of the deviation of every step")


@dataclass(frozen=True)
class Drafting(Sampling):
    """Partially generated images, with zeros in missing patches.

    Attributes:
        classes: class of each image, -1 for none, shape (B,).
        drafts: draft model of each image, the same for all.
        orders: positions of each image's patches in generation order, shape (B, n).
    """

    classes: Tensor
    drafts: tuple[nn.Module, ...]
    orders: Tensor


@dataclass(frozen=True)
class _Row:
    """Inputs of an image's step.

    Attributes:
        finished_patches: number of finished patches.
        count: number of patches to draft.
        missing_patches: number of missing patches.
        noise: the draft's noise in all steps but the last, shape (T, count, m).
        count_shared: the model's noise for the same patches; equal to `noise` if aligned.
        last: the draft's noise in the last step, shape (count, m).
        generator: random source of the row.
    """

    finished_patches: int
    count: int
    missing_patches: int
    noise: Tensor
    model_noise: Tensor
    last: Tensor
    generator: torch.Generator


@final
@component(
    "continuous-speculative",
    summary="sampler: drafts of patches, exact by densities",
    tier="research",
    paper="2411.11925",
    fidelity="variant",
    deviates="the density ratio is exact; the paper's biased factor is a setting",
    paper_steps=(
        ("acceptance of a draft by the ratio of densities", "log_ratio"),
        ("draw from the rest of the density by rejection", "residual"),
        ("shared noise of all steps but the last", "ContinuousSpeculative._drafts"),
        ("the paper's factor for all variances, which differ if variances are learned", "log_ratio"),
        ("variances that the head learns", "fedsim.models.patch_diffusion.PatchDiffusion.reverse"),
        ("the same random order for both models", "places_of"),
        ("a block that is verified at once, in place", "ContinuousSpeculative._verify_drafts"),
        ("drafts of all images in a single batch", "ContinuousSpeculative._drafts"),
    ),
)
class ContinuousSpeculative(Sampler[ContinuousSpeculativeConfig, Drafting]):
    """Generates the accepted draft patches and one more per step. The draft model runs once per draft patch."""

    counts: ClassVar[frozenset[str]] = frozenset({"drafted", "accepted", "passes", "tries"})

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Drafting:
        """Return blank images and the draft model.

        Raises:
            FedsimError: the model is no patch model, the shape differs, or the draft is missing or incompatible.
        """
        target = patch_model(model)
        if tuple(target.shape) != tuple(context.shape):
            raise FedsimError(
                f"the model generates images of shape {target.shape}, but shape {context.shape} was requested."
            )
        if self.config.mode == "block" and order_of(target) == "reading":
            raise FedsimError(
                "mode = 'block' samples several positions at once, and this model predicts only the next "
                "position. Train a model with model.order = 'random', or set mode = 'causal'."
            )
        draft = load_denoiser(find_denoiser(self.config.draft, _TRAINABLE)).model if self.config.draft else model
        check_draft(target, patch_model(draft))
        count, like = len(condition), next(model.parameters())
        return Drafting(
            like.new_zeros((count, *target.shape)),
            (target.patches,) * count,
            classes_of(model, condition, needed=False),
            (draft,) * count,
            torch.stack([places_of(target, generator) for generator in context.generators]),
        )

    def step(self, model: nn.Module, state: Drafting, context: GenerationContext) -> tuple[Drafting, list[Event]]:
        """Generate some patches of each image; their number may differ."""
        target, draft = (
            PatchReader(patch_model(round_), state.classes, state.orders, self.config.temperature)
            for round_ in (model, state.drafts[0])
        )
        index = state.orders[..., None].expand(-1, -1, target.model.size)
        patches = target.model.cut(state.x).gather(1, index)
        rows = [
            self._row(target, left, patches, generator)
            for left, generator in zip(state.level, context.generators, strict=True)
        ]
        guesses = self._drafts(draft, patches, rows)
        drafted = [
            patches[number, row.finished_patches : row.finished_patches + row.count] for number, row in enumerate(rows)
        ]
        truths, next_places = self._truths(target, patches, rows)
        judged = [self._verify_drafts(*round_) for round_ in zip(rows, drafted, truths, guesses, strict=True)]
        new = self._with_one_more(target, rows, judged, next_places)
        for number, (row, new_patches) in enumerate(zip(rows, new, strict=True)):
            patches[number, row.finished_patches : row.finished_patches + len(new_patches)] = new_patches
            patches[number, row.finished_patches + len(new_patches) :] = 0
        x = target.model.join(torch.zeros_like(patches).scatter(1, index, patches))
        check_finite(x)
        left = tuple(row.missing_patches - len(new_patches) for row, new_patches in zip(rows, new, strict=True))
        return replace(state, x=x, level=left), [event for _, event in judged]

    def are_finished(self, state: Drafting) -> Sequence[bool]:
        """Return which images are complete."""
        return [level == 0 for level in state.level]

    def _row(self, target: PatchReader, left: int, like: Tensor, generator: torch.Generator) -> _Row:
        """Sample the noise of an image's step, and determine the number of draft patches."""
        done, size = target.model.patches - left, target.model.size
        count = 0 if done < self.config.prefill * target.model.patches else min(self.config.length, left)
        noise = _normal((target.model.levels, count, size), like, generator)
        shared = noise if self.config.is_aligned else _normal(noise.shape, like, generator)
        return _Row(done, count, left, noise, shared, _normal((count, size), like, generator), generator)

    def _drafts(self, draft: PatchReader, patches: Tensor, rows: Sequence[_Row]) -> list[LastStep]:
        """Write drafts into the patches (B, n, m), and return their last steps per row."""
        lasts: list[list[LastStep]] = [[_nothing(patches)] for _ in rows]
        rounds = [[number] for number in range(max(row.count for row in rows))]
        if self.config.mode == "block":
            rounds = [list(range(len(rounds)))] if rounds else []
        for chunk in rounds:
            places = [(index, number) for index, row in enumerate(rows) for number in chunk if number < row.count]
            places_drafted = [(index, rows[index].finished_patches + number) for index, number in places]
            known = [
                rows[index].finished_patches if self.config.mode == "block" else number
                for index, number in places_drafted
            ]
            noise = torch.stack([rows[index].noise[:, number] for index, number in places], 1)
            last = draft.last(draft.conditions_of(patches, places_drafted, known), noise)
            ends = torch.stack([rows[index].last[number] for index, number in places])
            patches[tuple(map(list, zip(*places_drafted, strict=True)))] = last.mean + last.std * ends
            for place, (index, _) in enumerate(places):
                lasts[index].append(last.select(slice(place, place + 1)))
        return [concat_steps(last) for last in lasts]

    def _truths(
        self, target: PatchReader, patches: Tensor, rows: Sequence[_Row]
    ) -> tuple[list[LastStep], dict[int, Tensor]]:
        """Return the model's last steps of all drafts, and the conditions of the patches after them, by row."""
        drafted = [
            (index, row.finished_patches + number) for index, row in enumerate(rows) for number in range(row.count)
        ]
        next_places = [
            (index, row.finished_patches + row.count) for index, row in enumerate(rows) if self._goes_on(row)
        ]
        conditions = self._conditions(target, patches, rows, [*drafted, *next_places])
        last = target.last(conditions[: len(drafted)], torch.cat([row.model_noise for row in rows], 1))
        ends = torch.tensor([row.count for row in rows]).cumsum(0).tolist()
        truths = [last.select(slice(end - row.count, end)) for row, end in zip(rows, ends, strict=True)]
        return truths, {index: conditions[len(drafted) + place] for place, (index, _) in enumerate(next_places)}

    def _conditions(self, target: PatchReader, patches: Tensor, rows: Sequence[_Row], places: list[Place]) -> Tensor:
        """Return the conditions of places, in a single pass of the model."""
        if self.config.mode == "causal":
            return target.along(patches, places)
        return target.conditions_of(patches, places, [rows[index].finished_patches for index, _ in places])

    def _goes_on(self, row: _Row) -> bool:
        """Return whether a patch follows fully accepted drafts: in block mode only if nothing is drafted."""
        return row.count < row.missing_patches and (self.config.mode == "causal" or row.count == 0)

    def _verify_drafts(self, row: _Row, drafted: Tensor, truth: LastStep, guess: LastStep) -> tuple[Tensor, Event]:
        """Return the accepted drafts of an image, with resampled patches in place of rejected ones, and the event."""
        config = self.config
        chances = log_ratio(drafted, truth, guess, config.rule, config.soft)
        falls = torch.rand(row.count, generator=row.generator).log().to(chances) >= chances
        kept = slice(None)
        if config.mode == "causal" and falls.any():
            kept = slice(int(falls.int().argmax()) + 1)
        new, falls = drafted[kept].clone(), falls[kept]
        new[falls], tries = residual(
            truth.select(kept).select(falls), guess.select(kept).select(falls), row.generator, config.rule
        )
        stands = int((~falls).sum())
        return new, Event(drafted=row.count, accepted=stands, passes=1, tries=int(tries.sum()))

    def _with_one_more(
        self,
        target: PatchReader,
        rows: Sequence[_Row],
        judged: Sequence[tuple[Tensor, Event]],
        next_conditions: dict[int, Tensor],
    ) -> list[Tensor]:
        """Return the new patches of each image, plus one sampled from the model if all drafts were accepted."""
        new = [patches for patches, _ in judged]
        accepted_all = [index for index in next_conditions if judged[index][1]["accepted"] == rows[index].count]
        if not accepted_all:
            return new
        shape, like = (target.model.levels + 1, target.model.size), new[0]
        noise = torch.stack([_normal(shape, like, rows[index].generator) for index in accepted_all], 1)
        last = target.last(torch.stack([next_conditions[index] for index in accepted_all]), noise[:-1])
        for index, patch in zip(accepted_all, last.mean + last.std * noise[-1], strict=True):
            new[index] = torch.cat((new[index], patch[None]))
        return new


def _normal(shape: Sequence[int], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(tuple(shape), generator=generator).to(like)


def _nothing(patches: Tensor) -> LastStep:
    """Return the last steps of zero patches."""
    empty = patches.new_zeros(0, patches.shape[-1])
    return LastStep(empty, empty, empty.sum(-1))
