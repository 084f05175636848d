"""continuous-speculative: a small model drafts patches, the model reads them at once and keeps what it would draw.

Idea: given the noise of all steps but the last, a diffusion head's patch is Gaussian, so that densities are known.
Equation: x from N(m_q, s_q) stands with probability min(1, N(x; m_p, s_p) / N(x; m_q, s_q)); the first that falls is
    drawn from (N_p - N_q)+, by rejection. Both models share x_T and the noise of steps T to 2, and not the last.
Assumes: a model that draws patch by patch, and a draft of the same patches and levels.
Leaks: patches of a step follow how well the draft foresees the model: where only one was trained on an image, it falls.
Fails: a draft that the model seldom agrees with, and heads so small that drafting costs as much as drawing.
Source: Wang et al. 2024, arXiv 2411.11925; its factor of all variances (rule = "paper") is biased where they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, cast, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.sampler._solver import check_finite, classes_of
from fedsim.components.sampler._speculation import LastStep, last_step, log_ratio, residual
from fedsim.core.denoisers import find_denoiser, load_denoiser
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Condition, GenerationContext, Sampler, Sampling
from fedsim.core.registry import component
from fedsim.core.types import Config, Event

_TRAINABLE = ("digits-patches-draft", "photographs-patches-draft")


class ContinuousSpeculativeConfig(Config):
    """Settings of continuous speculative decoding."""

    draft: str = Field(
        default="", description="folder of a trained model, or the name of one in the cache; empty: the model itself"
    )
    length: int = Field(default=4, ge=0, description="patches of a draft, at most; 0: one patch a step, without drafts")
    prefill: float = Field(default=0.05, ge=0, le=1, description="share of the patches that are drawn without drafts")
    rule: Literal["exact", "paper"] = "exact"
    soft: float = Field(default=1.0, ge=1, description="exponents are divided by its square in the test; 1 is exact")
    is_aligned: bool = Field(default=True, description="whether both models share the noise of all steps but the last")
    temperature: float = Field(default=1.0, gt=0, description="factor of the deviation of every step")


class PatchModel(Protocol):
    """A model that draws patch by patch, such as `patch-diffusion`."""

    shape: tuple[int, ...]
    patches: int
    size: int
    levels: int

    def conditions(self, patches: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the condition (1, k + 1, ...) of each patch and of the one behind, given k patches (1, k, m)."""
        ...

    def reverse(self, x: Tensor, level: int, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of patches (N, m) one level down."""
        ...

    def cut(self, images: Tensor) -> Tensor:
        """Return the patches (B, n, m) of images."""
        ...

    def join(self, patches: Tensor) -> Tensor:
        """Return the images of patches."""
        ...


@dataclass(frozen=True)
class Drafting(Sampling):
    """Images that are being drawn, the rest of them 0.

    Attributes:
        classes: class of each, -1 for none, shape (B,).
        drafts: what drafts for each.
    """

    classes: Tensor
    drafts: tuple[nn.Module, ...]


class _Turn(NamedTuple):
    """New patches (k, m) of one image, and what the step counts."""

    patches: Tensor
    event: Event


@final
@component(
    "continuous-speculative",
    summary="sampler: drafts of patches, exact by densities",
    paper="2411.11925",
    fidelity="variant",
    deviates="the density ratio is exact, where the paper's factor is biased",
    paper_steps=(
        (
            "acceptance of a draft by the ratio of densities",
            "log_ratio",
            "test_another_draft_is_accepted_in_part_and_the_trace_says_how_much",
        ),
        (
            "draw from the rest of the density by rejection",
            "residual",
            "test_two_patches_have_the_joint_law_of_the_model",
        ),
        (
            "shared noise of all steps but the last",
            "ContinuousSpeculative._drafts",
            "test_a_model_that_drafts_for_itself_accepts_every_patch",
        ),
    ),
)
class ContinuousSpeculative(Sampler[ContinuousSpeculativeConfig, Drafting]):
    """Draws the drafted patches that stand, and one more. The draft takes a pass of its own for each of its patches."""

    counts: ClassVar[frozenset[str]] = frozenset({"drafted", "accepted", "passes", "tries"})

    def start(self, model: nn.Module, condition: Condition, context: GenerationContext) -> Drafting:
        """Return blank images, and what drafts.

        Raises:
            FedsimError: the model draws no patches, the shape is another, or the draft does not fit or is not there.
        """
        patch_model = _patch_model(model)
        if tuple(patch_model.shape) != tuple(context.shape):
            raise FedsimError(f"the model draws images of shape {patch_model.shape}, and {context.shape} is asked for.")
        draft = load_denoiser(find_denoiser(self.config.draft, _TRAINABLE)).model if self.config.draft else model
        _check_draft(patch_model, _patch_model(draft))
        count, like = len(condition), next(model.parameters())
        classes = classes_of(model, condition, needed=False)
        return Drafting(
            like.new_zeros((count, *patch_model.shape)), (patch_model.patches,) * count, classes, (draft,) * count
        )

    def step(self, model: nn.Module, state: Drafting, context: GenerationContext) -> tuple[Drafting, list[Event]]:
        """Draw some patches of each image, one image after the other, since their numbers differ."""
        patch_model = _patch_model(model)
        x, left, events = state.x.clone(), list(state.level), list[Event]()
        for row, generator in enumerate(context.generators):
            patches = patch_model.cut(x[row : row + 1])
            done = patch_model.patches - left[row]
            labels = state.classes[row : row + 1]
            turn = self._draw(
                patch_model, _patch_model(state.drafts[row]), patches[:, :done], left[row], labels, generator
            )
            patches[0, done : done + len(turn.patches)] = turn.patches
            x[row], left[row] = patch_model.join(patches)[0], left[row] - len(turn.patches)
            events.append(turn.event)
        check_finite(x)
        return replace(state, x=x, level=tuple(left)), events

    def finished(self, state: Drafting) -> Sequence[bool]:
        """Say whether no patch is left."""
        return [level == 0 for level in state.level]

    def _draw(
        self,
        patch_model: PatchModel,
        draft: PatchModel,
        done: Tensor,
        left: int,
        labels: Tensor,
        generator: torch.Generator,
    ) -> _Turn:
        """Return the next patches of one image, given those that stand (1, k, m)."""
        config = self.config
        count = min(config.length, left)
        if not count or done.shape[1] < config.prefill * patch_model.patches:
            patch = self._alone(patch_model, patch_model.conditions(done, labels)[:, -1], generator)
            return _Turn(patch, Event(drafted=0, accepted=0, passes=1, tries=0))
        noise = _normal((patch_model.levels, count, patch_model.size), done, generator)
        drafted, guesses = self._drafts(draft, done, labels, noise, generator)
        conditions = patch_model.conditions(torch.cat((done, drafted[None]), 1), labels)[0, done.shape[1] :]
        shared = noise if config.is_aligned else _normal(noise.shape, done, generator)
        target = last_step(_reversal(patch_model, conditions[:count]), shared, patch_model.levels, config.temperature)
        chances = log_ratio(drafted, target, guesses, config.rule, config.soft)
        falls = torch.rand(count, generator=generator).log().to(chances) >= chances
        accepted = int(falls.int().argmax()) if falls.any() else count
        if accepted == count:
            more = () if count == left else (self._alone(patch_model, conditions[count:], generator),)
            event = Event(drafted=count, accepted=count, passes=1, tries=0)
            return _Turn(torch.cat((drafted, *more)), event)
        place = slice(accepted, accepted + 1)
        patch, tries = residual(target.at(place), guesses.at(place), generator, config.rule)
        event = Event(drafted=count, accepted=accepted, passes=1, tries=int(tries))
        return _Turn(torch.cat((drafted[:accepted], patch)), event)

    def _alone(self, patch_model: PatchModel, condition: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a patch (1, m) by the model alone, given its condition (1, ...)."""
        noise = _normal((patch_model.levels, 1, patch_model.size), condition, generator)
        last = last_step(_reversal(patch_model, condition), noise, patch_model.levels, self.config.temperature)
        return last.mean + last.std * _normal(last.mean.shape, condition, generator)

    def _drafts(
        self, draft: PatchModel, done: Tensor, labels: Tensor, noise: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, LastStep]:
        """Return drafted patches (k, m), one after the other, and their last steps."""
        patches, lasts = done, list[LastStep]()
        for number in range(noise.shape[1]):
            condition = draft.conditions(patches, labels)[:, -1]
            own_noise = noise[:, number : number + 1]
            lasts.append(last_step(_reversal(draft, condition), own_noise, draft.levels, self.config.temperature))
            patch = lasts[-1].mean + lasts[-1].std * _normal(lasts[-1].mean.shape, done, generator)
            patches = torch.cat((patches, patch[None]), 1)
        parts = (torch.cat([getattr(last, name) for last in lasts]) for name in ("mean", "std", "log_spread"))
        return patches[0, done.shape[1] :], LastStep(*parts)


def _reversal(patch_model: PatchModel, conditions: Tensor) -> Any:
    return lambda x, level: patch_model.reverse(x, level, conditions)


def _normal(shape: Sequence[int], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(tuple(shape), generator=generator).to(like)


def _patch_model(model: nn.Module) -> PatchModel:
    if all(hasattr(model, name) for name in ("conditions", "reverse", "cut", "join", "patches", "levels")):
        return cast("PatchModel", model)
    raise FedsimError(
        f"the model {type(model).__name__} predicts no noise of patches, so that nothing can be drafted for it. Use "
        "one that was trained for task 'next-patch', such as 'patch-diffusion', or sampler 'heun' for a denoiser."
    )


def _check_draft(patch_model: PatchModel, draft: PatchModel) -> None:
    ours, theirs = ((one.patches, one.size, one.levels) for one in (patch_model, draft))
    if ours != theirs:
        raise FedsimError(
            f"the draft has {theirs[0]} patches of {theirs[1]} numbers and {theirs[2]} noise levels, and the model "
            f"{ours[0]} of {ours[1]} and {ours[2]}. Both must have the same: train a draft with these settings."
        )
    if tuple(patch_model.shape) != tuple(draft.shape):
        raise FedsimError(
            f"the draft draws images of shape {tuple(draft.shape)}, and the model of {tuple(patch_model.shape)}, so "
            "that its patches lie elsewhere. Train a draft with the data of the model."
        )
    known, wanted = (getattr(one, "classes", 0) for one in (draft, patch_model))
    if 0 < known < wanted:
        raise FedsimError(
            f"the draft is told {known} classes and the model {wanted}, so that it knows no such image. Train a draft "
            "with the data of the model, or one that is told no classes."
        )
