"""Low-rank substitutes for blocks: component `lora-drop-adapters` trains them, decoder `lora-drop` runs them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal, NoReturn, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.core.blocks import states_in, with_states
from fedsim.components.core.low_rank import LowRankLinear
from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.nets.tensor_files import read_saved
from fedsim.core.types import Config

NAME = "lora-drop-adapters"
Reuse = Literal["anchor", "previous"]  # which token's block output is reused and corrected by the adapter
_KEPT = ("past", "cache", "past_key_values", "past_key_value")  # argument names of the key-value cache in blocks
_WEIGHT = re.compile(r"\blayers\.(\d+)\.lora_drop\.lora_a\.weight$")
_Settings = dict[str, Any]


class LoraDropAdaptersConfig(Config):
    """Settings of the adapters and of the schedule that they are trained for."""

    blocks: tuple[int, ...] | None = Field(
        default=None, description="numbers of the blocks with an adapter, from 0; unset: every second, not the last"
    )
    cycle: int = Field(default=4, ge=1, description="c: a refresh and c - 1 tokens that lean on it; 1: no token does")
    reuse: Reuse = Field(
        default="anchor", description="output that replaces a block: of the last anchor, or of the token before"
    )
    rank: int = Field(default=8, ge=1, description="rank r, at most the model's width")
    alpha: float = Field(default=16.0, gt=0, description="numerator of the adapter's scale alpha / r")
    prompt: int = Field(default=1, ge=1, description="first tokens of an example, on which all blocks run")


def every_second(depth: int) -> tuple[int, ...]:
    """Return the blocks dropped by default: odd indices, without the last block if another block remains."""
    return tuple(range(1, max(min(depth, 2), depth - 1), 2))


def check_blocks(chosen: tuple[int, ...], depth: int) -> str | None:
    """Return why a choice of blocks to drop is invalid, or None.

    Block 0 always runs: only it sees the token's identity.
    """
    if all(0 < block < depth for block in chosen):
        return None
    return f"expected numbers of blocks from 1 to {depth - 1}: the model has {depth}, and the first block always runs"


def adapters_of(model: nn.Module) -> dict[int, DropAdapter]:
    """Return a model's adapters by block index."""
    return {module.number: module for module in model.modules() if isinstance(module, DropAdapter)}


def read_adapters(path: Path, settings: LoraDropAdaptersConfig, width: int) -> dict[int, DropAdapter]:
    """Load trained adapters by block index from a file of a client's trained weights.

    Args:
        path: file that `torch.save` wrote, with tensors by name; it is loaded without running code.
        settings: cycle, reuse and alpha used in training.
        width: hidden width of the model.

    Raises:
        FedsimError: the file is missing, or contains no adapters of this width.
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
    """Low-rank map D(x) = (alpha / r) B A x of hidden states (..., d), which replaces a block on some tokens.

    Attributes:
        number: index of the block.
        cycle: period c of the anchors.
        reuse: token whose block output is reused.
    """

    def __init__(self, config: LoraDropAdaptersConfig, number: int, like: Tensor, generator: torch.Generator) -> None:
        nn.Module.__init__(self)  # no base layer, so `LowRankLinear.__init__` does not apply
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

    def merge_adapter(self) -> NoReturn:
        """Raise, because no base layer exists.

        Raises:
            NotApplicable: always.
        """
        raise NotApplicable(f"the adapter of block {self.number} replaces a whole block, and cannot be merged.")

    def hide(
        self, _block: nn.Module, inputs: tuple[Any, ...], settings: _Settings
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Return the block's arguments with a mask that hides keys of tokens on which the block does not run.

        Raises:
            FedsimError: the block runs without an attention mask.
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
        """Return the block's output, with anchor outputs plus corrections between anchors; None if unchanged."""
        if _has_earlier_tokens(settings):
            return None
        before: Tensor = inputs[0]
        anchor = self._anchor(before.shape[1], before.device)
        leaning = (anchor != torch.arange(len(anchor), device=anchor.device)).nonzero().flatten()
        if not len(leaning):
            return None
        known = states_in(output)[:, anchor]
        changes = self(before[:, leaning])
        if self.reuse == "previous":  # corrections accumulate from the anchor to the token
            sums = torch.zeros_like(known).index_add(1, leaning, changes).cumsum(1)
            return with_states(output, known + sums - sums[:, anchor])
        return with_states(output, known.index_add(1, leaning, changes))

    def _anchor(self, length: int, device: torch.device) -> Tensor:
        """Return each position's anchor position, shape (T,); where the block runs, the position itself."""
        places = torch.arange(length, device=device)
        distance = (places - (self._prompt - 1)).clamp_min(0)
        return places - distance % self.cycle


class _Nothing(nn.Module):
    """Zero in place of the base layer that this adapter lacks."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.zeros_like(inputs)


def _has_earlier_tokens(settings: _Settings) -> bool:
    """Return whether the block receives a key-value cache, i.e. a decoder with its own dropping schedule runs it."""
    return any(settings.get(name) is not None for name in _KEPT)
