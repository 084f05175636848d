"""Low-rank stand-ins for blocks, which component `lora-drop-adapters` trains and decoder `lora-drop` runs."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal, NoReturn, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.core.low_rank import LowRankLinear
from fedsim.core.blocks import states_in, with_states
from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.tensor_files import read_saved
from fedsim.core.types import Config

NAME = "lora-drop-adapters"
Reuse = Literal["anchor", "previous"]  # which token's output stands for a block, beside the adapter's
_KEPT = ("past", "cache", "past_key_values", "past_key_value")  # what blocks call the keys of earlier tokens
_WEIGHT = re.compile(r"\blayers\.(\d+)\.lora_drop\.lora_a\.weight$")
_Settings = dict[str, Any]


class LoraDropAdaptersConfig(Config):
    """Settings of the adapters and of the schedule that they are trained for."""

    blocks: tuple[int, ...] | None = Field(
        default=None, description="numbers of the blocks that get one, from 0; absent: every second, not the last"
    )
    cycle: int = Field(default=4, ge=1, description="c: a refresh and c - 1 tokens that lean on it; 1: no token does")
    reuse: Reuse = Field(
        default="anchor", description="whose output stands for a block: that of the last anchor, or of the token before"
    )
    rank: int = Field(default=8, ge=1, description="rank r, at most the model's width")
    alpha: float = Field(default=16.0, gt=0, description="numerator of the adapter's scale alpha / r")
    prompt: int = Field(default=1, ge=1, description="first tokens of an example, on which all blocks run")


def every_second(depth: int) -> tuple[int, ...]:
    """Return the blocks that are dropped by default: odd numbers, but not the last block's where there is another."""
    return tuple(range(1, max(min(depth, 2), depth - 1), 2))


def check_blocks(chosen: tuple[int, ...], depth: int) -> str | None:
    """Return what is wrong with blocks to drop, or None. The first one always runs: it alone tells tokens apart."""
    if all(0 < block < depth for block in chosen):
        return None
    return f"expected numbers of blocks from 1 to {depth - 1}: the model has {depth}, and the first one always runs"


def adapters_of(model: nn.Module) -> dict[int, DropAdapter]:
    """Return a model's adapters by the number of their block."""
    return {module.number: module for module in model.modules() if isinstance(module, DropAdapter)}


def read_adapters(path: Path, settings: LoraDropAdaptersConfig, width: int) -> dict[int, DropAdapter]:
    """Return trained adapters by the number of their block, from a file of the weights that a client trained.

    Args:
        path: what `torch.save` wrote of tensors by name; nothing in it is run.
        settings: cycle, reuse and alpha that they were trained with.
        width: of the model.

    Raises:
        FedsimError: there is no such file, or it holds no adapters of this width.
    """
    try:
        held = read_saved(path)
    except FedsimError as error:
        raise FedsimError(f"adapters = {error}") from error
    adapters: dict[int, DropAdapter] = {}
    tensors = {str(n): t for n, t in (held.items() if isinstance(held, dict) else ()) if isinstance(t, Tensor)}
    for name, a in tensors.items():
        match, b = _WEIGHT.search(name), tensors.get(name.replace("lora_a", "lora_b"))
        if match is None or a.shape[1:] != (width,) or b is None or b.shape != (width, len(a)):
            continue
        config = settings.model_copy(update={"rank": len(a)})
        adapter = DropAdapter(config, int(match[1]), a, torch.Generator())
        adapter.lora_a.weight.data, adapter.lora_b.weight.data = a, b
        adapters[adapter.number] = adapter
    if not adapters:
        raise FedsimError(
            f"adapters = {path} holds no adapters of width {width}: expected tensors such as "
            "'layers.1.lora_drop.lora_a.weight', as component 'lora-drop-adapters' trains them."
        )
    return adapters


@final
class DropAdapter(LowRankLinear):
    """D(x) = (alpha / r) B A x of hidden states (..., d), which stands for a block on some tokens.

    Attributes:
        number: of the block.
        cycle: see the settings.
        reuse: likewise.
    """

    def __init__(self, config: LoraDropAdaptersConfig, number: int, like: Tensor, generator: torch.Generator) -> None:
        nn.Module.__init__(self)  # there is no linear layer that it changes
        width, rank = like.shape[1], config.rank
        self.in_features = self.out_features = width
        self.number, self.cycle, self.scale = number, config.cycle, config.alpha / rank
        self.reuse: Reuse = config.reuse
        self._prompt = config.prompt
        bound = 1.0 / math.sqrt(width)
        self.lora_a = nn.Linear(width, rank, bias=False, device="meta")
        started = torch.empty(rank, width).uniform_(-bound, bound, generator=generator)
        self.lora_a.weight = nn.Parameter(started.to(like))
        self.lora_b = nn.Linear(rank, width, bias=False, device="meta")
        self.lora_b.weight = nn.Parameter(like.new_zeros(width, rank))
        self.base = _Nothing()  # type: ignore[assignment]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return D(x)."""
        return self.lora_b(self.scale * self.lora_a(inputs))

    def merged(self) -> NoReturn:
        """Refuse.

        Raises:
            NotApplicable: there is no linear layer to merge it into.
        """
        raise NotApplicable(f"the adapter of block {self.number} stands for a whole block, and cannot be merged.")

    def hide(
        self, _block: nn.Module, inputs: tuple[Any, ...], settings: _Settings
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Return a block's arguments with a mask that hides the keys of tokens on which it does not run.

        Raises:
            FedsimError: the block is run without a mask.
        """
        if _has_earlier_tokens(settings):
            return None
        length = inputs[0].shape[1]
        runs = self._anchor(length, inputs[0].device) == torch.arange(length, device=inputs[0].device)
        if runs.all():
            return None
        mask = settings.get("attention_mask")
        if mask is None:
            raise FedsimError(f"component '{NAME}' needs an attention that is given a mask, such as 'eager'.")
        hidden = ~runs[None, :] & ~torch.eye(length, dtype=torch.bool, device=runs.device)
        return inputs, {**settings, "attention_mask": mask.masked_fill(hidden, torch.finfo(mask.dtype).min)}

    def stand_in(self, _block: nn.Module, inputs: tuple[Any, ...], settings: _Settings, output: Any) -> Any:
        """Return the block's output, in which some tokens have that of another and the adapter's."""
        if _has_earlier_tokens(settings):
            return None
        before: Tensor = inputs[0]
        anchor = self._anchor(before.shape[1], before.device)
        leaning = (anchor != torch.arange(len(anchor), device=anchor.device)).nonzero().flatten()
        if not len(leaning):
            return None
        known = states_in(output)[:, anchor]
        changes = self(before[:, leaning])
        if self.reuse == "previous":  # it stands on that of the token before, and so on back to the anchor
            sums = torch.zeros_like(known).index_add(1, leaning, changes).cumsum(1)
            return with_states(output, known + sums - sums[:, anchor])
        return with_states(output, known.index_add(1, leaning, changes))

    def _anchor(self, length: int, device: torch.device) -> Tensor:
        """Return the place of each place's anchor, shape (T,): its own where the block runs."""
        places = torch.arange(length, device=device)
        behind = (places - (self._prompt - 1)).clamp_min(0)
        return places - behind % self.cycle


class _Nothing(nn.Module):
    """What an adapter without a linear layer adds to."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.zeros_like(inputs)


def _has_earlier_tokens(settings: _Settings) -> bool:
    """Say whether a block reads new tokens alone, whose places it cannot know; a decoder says what to drop then."""
    return any(settings.get(name) is not None for name in _KEPT)
