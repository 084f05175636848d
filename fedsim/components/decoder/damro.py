"""damro: contrasts scores given all visual tokens with scores given only the patches the class token attends to most.

Idea: Vision encoders store global image properties in a few tokens, often background. What these tokens alone predict
    is damped.
Equation: z = (1 + a) z_all - a z_few, for v with z_all,v >= max z_all + ln b; few: the k patches with the highest
    softmax(q_class . k_j) in the encoder layer whose output is projected
Assumes: a model that reads an image and text, with a class token; nonempty prompts. No training.
Leaks: counts depend on the length of the text only. The chosen patches depend on the image and outline its content.
Fails: if the encoder has no such tokens, nothing is damped. Each token costs two rows of the model.
Source: Gong et al. 2024, arXiv 2410.04514, section 4; patches in the image's order, where the published code orders
    them by attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.decoder._drawing import draw
from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.hooks import IMAGES, Decoder, GenerationContext, GenerationInputs, TextState, check_scores
from fedsim.core.nets.visual import (
    AnsweringModel,
    LayerView,
    ReadPrompt,
    Stream,
    VisualReducer,
    add_reducer,
    can_answer,
)
from fedsim.core.registry import component
from fedsim.core.types import Config, Event, Modality

_ATTENTION = "damro.attention"  # the class token's attention to the image's patches, (B, N); -1 for a merged patch


class DamroConfig(Config):
    """Settings of the contrast."""

    strength: float = Field(default=2.0, ge=0, description="alpha of the contrast; 0: the model's own text")
    outliers: int = Field(default=2, ge=1, description="k, visual tokens that the second branch sees")
    cutoff: float = Field(
        default=0.1, ge=0, le=1, description="beta: tokens with less of the largest probability are never written"
    )
    heads: Literal["joint", "mean"] = Field(
        default="joint",
        description="a single product over all channels, as in the published code; or the mean over heads",
    )
    order: Literal["raster", "attention"] = Field(
        default="raster", description="order of the outliers: the image's, or falling attention, as the published code"
    )
    recount: bool = Field(
        default=True, description="the second branch counts positions anew, as published; else they stay"
    )
    choice: Literal["class-token", "random"] = Field(
        default="class-token", description="the outliers, or places drawn for each text. A control"
    )
    temperature: float = Field(default=0.0, ge=0, description="T of the draws; 0: the likeliest token")


@dataclass(frozen=True)
class Distrusting(TextState):
    """Texts about images, and the state of both branches.

    Attributes:
        outliers: patches per row that the second branch sees, in their order.
        last: scores of both branches per row in the last step; empty before the first step.
        branches: cached state of both branches per row.
    """

    outliers: tuple[tuple[int, ...], ...]
    last: tuple[tuple[Tensor, ...], ...] = field(compare=False, repr=False)
    branches: tuple[tuple[Branch, ...], ...] = field(compare=False, repr=False)


class Branch:
    """Cached state of the model for one text with some visual tokens. States may share it, because it compares tokens.

    Args:
        model: vision-language model.
        encoded: visual tokens of an image.
        prompt: token ids of the question.
        recounts: whether positions are renumbered contiguously.
    """

    def __init__(self, model: AnsweringModel, encoded: Stream, prompt: tuple[int, ...], recounts: bool) -> None:
        self._encoded, self._prompt, self._recounts = encoded, prompt, recounts
        self._read, self._tokens = self._begin(model), prompt

    def scores(self, model: AnsweringModel, tokens: tuple[int, ...]) -> Tensor:
        """Return the next-token scores (V,) after a text that begins with the prompt."""
        if tokens[: len(self._tokens)] != self._tokens:
            self._read, self._tokens = self._begin(model), self._prompt
        for token in tokens[len(self._tokens) :]:
            model.follow(self._read, torch.tensor([token], device=self._read.scores.device))
        self._tokens = tokens
        return self._read.scores[0]

    def _begin(self, model: AnsweringModel) -> ReadPrompt:
        question = torch.tensor([self._prompt], device=self._encoded.hidden_states.device)
        return model.begin(self._encoded, question, is_contiguous=self._recounts)


@final
@component(
    "damro",
    summary="decoder: damps predictions that rest on a few outlying visual tokens",
    tier="research",
    paper="2410.04514",
    fidelity="variant",
    deviates="outliers keep the image's order; the layer used is the projected layer",
    paper_steps=(
        ("outliers by the class token's attention", "Damro.outliers"),
        ("contrast of all tokens with the outliers", "contrast_scores"),
        ("tokens below a share of the likeliest are left out", "contrast_scores"),
    ),
)
class Damro(Decoder[DamroConfig, Distrusting]):
    """Generates a token per step from two branches: all visual tokens, and the outliers alone."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES
    counts: ClassVar[frozenset[str]] = frozenset({"rows"})

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Distrusting:
        """Process each prompt with its image, `condition.extra_inputs["image"]`, in both branches.

        Raises:
            NotApplicable: the model reads no images, or has fewer visual tokens than outliers.
            FedsimError: no images are given.
        """
        reader = self._check_model(model)
        if "image" not in condition.extra_inputs:
            raise FedsimError(
                "decoder 'damro' contrasts views of an image, and no image was passed. Pass Condition(..., "
                '{"image": ...}).'
            )
        rows = list[tuple[Branch, ...]]()
        chosen = list[tuple[int, ...]]()
        for prompt, image, source in zip(
            condition.prompts, condition.extra_inputs["image"], context.generators, strict=True
        ):
            encoded, places = self._find_outliers(reader, image[None], prompt, source)
            all_visual = Branch(reader, encoded, prompt, recounts=False)
            few_visual = encoded.keep(places[None])
            is_alone = self.config.strength == 0
            rows.append(
                (all_visual,) if is_alone else (all_visual, Branch(reader, few_visual, prompt, self.config.recount))
            )
            chosen.append(tuple(few_visual.patches[0].tolist()))
        return Distrusting(condition.prompts, tuple(chosen), ((),) * len(rows), tuple(rows))

    def step(self, model: nn.Module, state: Distrusting, context: GenerationContext) -> tuple[Distrusting, list[Event]]:
        """Append a token to each row.

        Raises:
            GenerationError: scores of some rows are not finite.
        """
        reader = self._check_model(model)
        read = [
            tuple(branch.scores(reader, tokens) for branch in row)
            for row, tokens in zip(state.branches, state.tokens, strict=True)
        ]
        for number in range(len(read[0])):
            check_scores([branch[number][None] for branch in read])
        scores = torch.stack(
            [contrast_scores(branch[0], branch[-1], self.config.strength, self.config.cutoff) for branch in read]
        )
        after = state.append_tokens([[token] for token in self._choose_tokens(scores, context.generators)])
        return replace(after, last=tuple(read)), [Event(rows=len(read[0]))] * len(state)

    def outliers(self, model: nn.Module, images: Tensor, question: Tensor) -> Tensor:
        """Return the patches (B, k) with the highest class-token attention, in descending order.

        Args:
            model: vision-language model.
            images: (B, C, H, W).
            question: tokens (B, T).

        Raises:
            NotApplicable: as in `start`.
        """
        return _highest(self._attention(self._check_model(model), images, question)[1], self.config.outliers)

    def _check_model(self, model: nn.Module) -> AnsweringModel:
        if not can_answer(model):
            raise NotApplicable(
                f"decoder 'damro' needs visual tokens, and model {type(model).__name__} has none. Choose a "
                "model for images with questions, such as 'tiny-vlm'."
            )
        if self.config.outliers > model.visual.patches:
            raise NotApplicable(
                f"decoder 'damro': outliers is {self.config.outliers}, and an image has {model.visual.patches} visual "
                "tokens: expected at most as many."
            )
        return model

    def _find_outliers(
        self, model: AnsweringModel, image: Tensor, prompt: tuple[int, ...], source: torch.Generator
    ) -> tuple[Stream, Tensor]:
        """Return all visual tokens of an image, and the indices of the outliers among them."""
        encoded, attention = self._attention(model, image, torch.tensor([prompt], device=image.device))
        scores = attention.gather(1, encoded.patches)  # attention to the patches that other token reducers kept
        if self.config.choice == "random":
            scores = torch.rand(scores.shape, generator=source).to(scores.device)
        places = _highest(scores, self.config.outliers)[0]
        return encoded, places.sort().values if self.config.order == "raster" else places

    def _attention(self, model: AnsweringModel, images: Tensor, question: Tensor) -> tuple[Stream, Tensor]:
        with add_reducer(
            model, _Looking(model.visual.feature_layer, model.visual.patches, self.config.heads == "joint")
        ):
            encoded = model.encode(images, question)
        return encoded, encoded.notes[_ATTENTION]

    def _choose_tokens(self, scores: Tensor, generators: Sequence[torch.Generator]) -> list[int]:
        if self.config.temperature == 0:
            return scores.argmax(-1).tolist()
        return draw((scores.double() / self.config.temperature).softmax(-1), generators)


class _Looking(VisualReducer):
    """Records the class token's attention to each patch in one encoder layer."""

    def __init__(self, number: int, patches: int, is_joint: bool) -> None:
        super().__init__()
        self._number, self._patches, self._is_joint = number, patches, is_joint

    def after_encoder_layer(self, before: Stream, after: Stream, layer: LayerView) -> Stream:
        """Record the attention in the stream's notes; hidden states do not change."""
        if layer.number != self._number:
            return after
        rows = _joint(before, layer) if self._is_joint else layer.attention(before, slice(0, 1)).mean(1)[:, 0]
        of_patches = rows.new_full((len(rows), self._patches + 1), -1.0)
        places = before.patches.where(before.patches >= 0, self._patches)
        return after.with_notes(**{_ATTENTION: of_patches.scatter(1, places, rows[:, before.visual])[:, :-1]})


def _joint(stream: Stream, layer: LayerView) -> Tensor:
    """Return the class token's attention (B, L), computed as one head over all channels."""
    queries, keys = layer.queries_keys(stream)
    products = (queries[:, :, 0, None] * keys).sum((1, 3)) / (keys.shape[1] * keys.shape[3]) ** 0.5
    mask = stream.mask(causal=False)
    return (products if mask is None else products + mask[:, 0, 0]).softmax(-1)


def _highest(scores: Tensor, count: int) -> Tensor:
    """Return the indices (B, count) of the highest scores, in descending order; ties go to the lower index."""
    return scores.argsort(dim=1, descending=True, stable=True)[:, :count]


def contrast_scores(all_visual: Tensor, few_visual: Tensor, strength: float, cutoff: float) -> Tensor:
    """Return the contrasted scores (..., V); -inf for tokens below the cutoff in the branch with all visual tokens.

    Args:
        all_visual: scores with all visual tokens.
        few_visual: scores with the outliers alone.
        strength: a, strength of the contrast.
        cutoff: b, minimum probability relative to the largest of `all_visual`.
    """
    contrast = (1 + strength) * all_visual - strength * few_visual
    if cutoff == 0:
        return contrast
    return contrast.masked_fill(all_visual < all_visual.amax(-1, keepdim=True) + math.log(cutoff), -torch.inf)
