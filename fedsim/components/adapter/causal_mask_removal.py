"""Causal-mask removal: in chosen groups of a decoder's blocks every token sees all tokens, not only those before it.

Query t of an ordinary block attends to key s iff s <= t; that of an open block iff s is no padding. Positions, norms
and weights stay as they are. The paper fine-tunes taggers like this, with LoRA, and searches for the best groups.
Paper: Dukic, Snajder 2024, arXiv 2401.14556, section 3. What it may leak: with an open block at the bottom a token's
gradient depends on the whole sentence, so that prefixes cannot be tested one token after the other; blocks that are
open higher up change nothing of what the first two blocks read.

Next tokens are no labels for such a model: it would copy what it sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.hooks import Adapter
from fedsim.core.registry import component
from fedsim.core.types import Config, Modality, PublicKnowledge

_BLOCKS, _ATTENTION = "layers", "self_attn"


class CausalMaskRemovalConfig(Config):
    """Settings of causal-mask removal."""

    open: str = Field(
        pattern="^[01]+$",
        description="a digit for each group of blocks, the lowest first; 1 for a group without causal mask",
        examples=["01"],
    )


def configurations(groups: int) -> tuple[str, ...]:
    """Return all values of `open` in the paper's order: the last digit, of the top group, changes fastest."""
    return tuple(f"{number:0{groups}b}" for number in range(2**groups))


def open_blocks(chosen: str, blocks: int) -> tuple[bool, ...]:
    """Return which blocks a value of `open` opens, from the bottom.

    Groups have blocks // groups consecutive blocks each, and the top group the rest too.

    Raises:
        NotApplicable: there are more groups than blocks.
    """
    groups = len(chosen)
    if groups > blocks:
        raise NotApplicable(
            f"component 'causal-mask-removal': open has {groups} digits, expected at most {blocks}, the model's blocks."
        )
    size = blocks // groups
    return tuple(chosen[min(block // size, groups - 1)] == "1" for block in range(blocks))


@final
@component(
    "causal-mask-removal",
    summary="tokens see those behind them in chosen blocks of a decoder",
    paper="2401.14556",
)
class CausalMaskRemoval(Adapter[CausalMaskRemovalConfig]):
    """Gives the open blocks another mask, in training and in evaluation. Nothing is added to the weights."""

    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return `model` with its open blocks; it must not generate text any more if there are any.

        Raises:
            NotApplicable: the model has no blocks of Llama's names, an attention that keeps to no mask, or too few
                blocks.
        """
        blocks = _blocks(model)
        are_open = open_blocks(self.config.open, len(blocks))
        chosen = [block for block, is_open in zip(blocks, are_open, strict=True) if is_open]
        if not chosen:
            return model
        sight = _Sight(getattr(model, "padding_token", None))
        model.register_forward_pre_hook(sight.begin)
        model.register_forward_hook(sight.end, always_call=True)
        for block in chosen:
            block.register_forward_pre_hook(sight.unmask, with_kwargs=True)
        for module in model.modules():
            if hasattr(module, "generate"):
                vars(module)["generate"] = _refuse_to_generate
        return model

    def public_view(self) -> PublicKnowledge:
        """Return which groups are open."""
        return PublicKnowledge("causal-mask-removal", self.config.model_dump())


@final
class _Sight:
    """What the tokens of the running forward pass may see in an open block."""

    def __init__(self, padding: int | None) -> None:
        self._padding = padding
        self._is_real: Tensor | None = None  # (B, T), while the model runs

    def begin(self, _model: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Note which tokens (B, T) are real: those in front of the padding at the end."""
        (tokens, *_) = inputs
        if self._padding is None:
            self._is_real = torch.ones_like(tokens, dtype=torch.bool)
            return
        self._is_real = (tokens != self._padding).long().flip(1).cumsum(1).flip(1) > 0

    def end(self, _model: nn.Module, _inputs: object, _outputs: object) -> None:
        """Forget them."""
        self._is_real = None

    def unmask(
        self, _block: nn.Module, inputs: tuple[Any, ...], settings: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return a block's arguments with a mask (B, 1, T, T) that hides padding alone.

        Raises:
            FedsimError: the model keeps what it computed for earlier tokens, or the block runs without its model.
        """
        if settings.get("use_cache") or self._is_real is None:
            raise FedsimError(
                "a block without causal mask needs all tokens at once: run the whole model, without a cache."
            )
        hidden: Tensor = inputs[0]
        length = hidden.shape[1]
        mask = torch.zeros_like(self._is_real, dtype=hidden.dtype)
        mask = mask.masked_fill(~self._is_real, torch.finfo(hidden.dtype).min)
        return inputs, {**settings, "attention_mask": mask[:, None, None, :].expand(-1, 1, length, -1)}


def _blocks(model: nn.Module) -> Sequence[nn.Module]:
    found = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and name.rpartition(".")[2] == _BLOCKS
        and all(hasattr(block, _ATTENTION) for block in module)
    ]
    if len(found) != 1 or not len(found[0]):
        raise NotApplicable(
            f"component 'causal-mask-removal': the model has no list of blocks '{_BLOCKS}' with an attention "
            f"'{_ATTENTION}' each, as tiny-llama and Llamas of the transformers package have."
        )
    kept_to = {getattr(getattr(block.self_attn, "config", None), "_attn_implementation", "eager") for block in found[0]}
    if kept_to != {"eager"}:
        raise NotApplicable(
            f"component 'causal-mask-removal': the attention is computed as '{', '.join(sorted(kept_to))}', which may "
            "not keep to the mask it is given. Load the model with attn_implementation = 'eager'."
        )
    return list(found[0])


def _refuse_to_generate(*_arguments: object, **_settings: object) -> NoReturn:
    raise FedsimError(
        "a model with open blocks cannot generate text: what it would write next changes all that it computed before. "
        "Leave out component 'causal-mask-removal'."
    )
