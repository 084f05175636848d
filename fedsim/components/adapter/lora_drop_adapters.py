"""lora-drop-adapters: trains low-rank substitutes for some blocks, which decoder `lora-drop` runs on most tokens.

Idea: a block returns similar outputs for neighbouring tokens. Only every c-th token (anchor) runs the block; the tokens
    between anchors reuse the last anchor's output plus a low-rank correction of their own input.
Equation: out_u = block(x)_u at anchors, u mod c = 0, else out_a(u) + (alpha / r) B A x_u, a(u) the last anchor; anchors
    attend to keys of the prompt and of anchors only. A, B are trained and sent, all else is frozen; B starts at zero.
Assumes: blocks with Llama's names; all prompt tokens run every block, and the last is the first anchor.
Leaks: A's gradient spans the inputs of tokens between anchors, up to r of them; B's gradient contains their projections
    by A.
Fails: with long cycles or most blocks dropped, the adapters do not recover the lost quality.
Source: Rajabzadeh et al. 2026, arXiv 2601.02569; out_a(u), x_u as in its code, or out_{u-1} as in its text.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import nn

from fedsim.components.core.blocks import blocks_of
from fedsim.components.core.drop_adapter import (
    NAME,
    DropAdapter,
    LoraDropAdaptersConfig,
    check_blocks,
    every_second,
)
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Adapter
from fedsim.core.registry import component
from fedsim.core.types import MethodDescription, Modality


@final
@component(
    "lora-drop-adapters",
    summary="trains low-rank substitutes of blocks, for decoder lora-drop",
    tier="research",
    paper="2601.02569",
    fidelity="variant",
    deviates="the default blocks and the hidden keys of tokens between anchors are chosen here",
    paper_steps=(
        ("training through dropped blocks", "LoraDropAdapters.prepare"),
        ("adapters alone are trained", "LoraDropAdapters.prepare"),
    ),
)
class LoraDropAdapters(Adapter[LoraDropAdaptersConfig]):
    """Freezes a model and adds an adapter to chosen blocks; it acts in forward passes without cached earlier tokens."""

    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return `model` with adapters.

        Raises:
            NotApplicable: no blocks with Llama's names, an invalid block number, or a rank above the model's width.
        """
        blocks = blocks_of(model, NAME)
        chosen = every_second(len(blocks)) if self.config.blocks is None else self.config.blocks
        wrong = check_blocks(chosen, len(blocks))
        if wrong is not None:
            raise NotApplicable(f"component '{NAME}': blocks = {list(chosen)}, {wrong}.")
        model.requires_grad_(False)
        for number in chosen:
            like = next(blocks[number].get_submodule("self_attn").parameters())
            width = like.shape[1]
            if self.config.rank > width:
                raise NotApplicable(f"component '{NAME}': rank is {self.config.rank}, expected at most {width}.")
            adapter = DropAdapter(self.config, number, like, generator)
            blocks[number].add_module("lora_drop", adapter)
            blocks[number].register_forward_pre_hook(adapter.hide, with_kwargs=True)
            blocks[number].register_forward_hook(adapter.stand_in, with_kwargs=True)
        return model

    def public_description(self) -> MethodDescription:
        """Return the settings, which include the schedule."""
        return MethodDescription(NAME, settings=self.config.model_dump())
