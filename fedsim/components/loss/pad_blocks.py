"""pad-blocks: trains pad tokens of a language model to predict the tokens of a confident span in a single step.

Idea: many tokens are almost certain given the token before them; a pad predicts such a token ahead of its turn.
Equation: units are a first token and followers with p >= sure, at most K tokens; loss + weight * mean over pads j of
    -ln softmax(pad j)_(s + j), where pads of a unit at s attend to the text before it, and to earlier pads of their own
    unit.
Assumes: a causal language model with individually callable layers. p is computed by the frozen model below its
    adapters, or without adapters by the received model; so list the component after the adapter.
Leaks: the pad's gradient is pooled over all marked spans; followers of a unit have gradients at two positions.
Fails: if the model is never confident, pads learn only from the few random blocks. Pads are trained without dropout.
Source: inspired by lexical unit decoding, Sun, Zhang, Lin et al. 2024, arXiv 2405.15208; constants, and a separate pad
    embedding, are chosen here.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from fedsim.components.core.low_rank import adapters_off
from fedsim.components.core.pads import add_pad, draw_blocks, embedding_of, pack, pad_of, read, units
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import HookContext, LossTerm, ModelComponent, PublicFederation
from fedsim.core.nets.kv_cache import stack_of
from fedsim.core.nets.losses import IGNORED, cross_entropy
from fedsim.core.nets.masks import disable_dropout
from fedsim.core.registry import component
from fedsim.core.types import Batch, Config, MethodDescription, Modality


class PadBlocksConfig(Config):
    """Settings of units and blocks."""

    sure: float = Field(default=0.9, gt=0, le=1, description="probability alpha from which a token follows in a unit")
    max_tokens: int = Field(default=4, ge=2, description="tokens K of a unit")
    blocks: int = Field(default=8, ge=1, description="blocks of a text, at most")
    unsure: float = Field(
        default=0.1, ge=0, le=1, description="share of blocks that are any unit's, with K - 1 pads: to be unsure of"
    )
    weight: float = Field(default=1.0, ge=0, description="lambda, weight of the pads' loss relative to the text's loss")


@final
@component(
    "pad-blocks",
    summary="trains pads that predict several confident tokens at once",
    tier="research",
    paper="2405.15208",
    fidelity="inspired",
    deviates="only abstract and README were read; constants are chosen here",
    paper_steps=(
        ("lexical units marked by the model's own confidence", "sure_of"),
        ("one pass over packed samples of tokens and pads", "fedsim.components.core.pads.pack"),
    ),
)
class PadBlocks(ModelComponent[PadBlocksConfig], LossTerm[PadBlocksConfig]):
    """Adds a row to the embedding and a term to the loss; the model's own forward pass does not change."""

    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return the model with a pad.

        Raises:
            NotApplicable: the model's layers are unknown, or it has no embedding.
        """
        embedding = embedding_of(model)
        if embedding is None or stack_of(model) is None:
            raise NotApplicable(
                "component 'pad-blocks' runs single layers of a causal language model, and fedsim cannot "
                "find the layers of this model. Use model 'tiny-llama', or a Llama-style checkpoint"
            )
        add_pad(embedding)
        return model

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Refuse labels other than next tokens, a frozen pad, and components that observe the model as a whole."""
        embedding = embedding_of(model)
        if federation.label_shape != federation.shape or federation.classes != federation.vocabulary:
            return "pads predict next tokens, and the labels are others. Use task 'next-token'"
        if embedding is None or stack_of(model) is None:
            return "another component listens to the model as a whole, which pads would pass by. Leave it out"
        if not embedding.get_parameter("pad").requires_grad:
            return "the pad is frozen. Name 'pad-blocks' behind the adapter"
        return None

    def loss(self, model: nn.Module, batch: Batch, outputs: Tensor, context: HookContext) -> Tensor:
        """Return the pads' loss, scaled by `weight`: the mean over the pads of a text, then over the texts.

        Raises:
            NotApplicable: the model's layers are unknown, or it has no pad.
        """
        stack, pad, config = stack_of(model), pad_of(model), self.config
        if stack is None or pad is None:
            raise NotApplicable(
                "component 'pad-blocks' finds no layers with a pad. Remove the component that replaces the model"
            )
        with disable_dropout():
            sent = {
                name: context.received_weights[name]
                for name, weight in model.named_parameters()
                if weight.requires_grad
            }
            with torch.no_grad(), adapters_off(model):
                odds = functional_call(model, sent, (batch.inputs,)).softmax(-1)
            lengths = [units(row, config.sure, config.max_tokens) for row in sure_of(odds, batch.labels)]
            blocks = [
                draw_blocks(row, config.blocks, config.max_tokens, config.unsure, context.generator) for row in lengths
            ]
            packed = pack(batch.inputs, batch.labels, blocks, pad, config.blocks * (config.max_tokens - 1))
            scores = read(stack, packed, batch.inputs.shape[1])
        return config.weight * cross_entropy(scores, packed.targets)

    def public_description(self) -> MethodDescription:
        """Return the settings; the units are private."""
        return MethodDescription("pad-blocks", settings=self.config.model_dump())


def sure_of(odds: Tensor, labels: Tensor) -> list[list[float]]:
    """Return the probability of each text's tokens under probabilities (B, T, V), without padding."""
    of_label = odds.gather(-1, labels.clamp_min(0)[..., None])[..., 0]
    return [row[is_sure].tolist() for row, is_sure in zip(of_label, labels != IGNORED, strict=True)]
