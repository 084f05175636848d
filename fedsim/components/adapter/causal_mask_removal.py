"""causal-mask-removal: removes the causal mask in chosen groups of decoder blocks, so each token attends to all tokens.

Idea: Sequence tagging may use the whole sentence. The paper fine-tunes decoders this way with LoRA and searches over
    groups.
Equation: in an ordinary block query t attends to key s iff s <= t; in an open block iff s is not padding.
Assumes: a Llama decoder whose attention applies the given mask. Positions, norms and weights do not change.
Leaks: if the lowest block is open, a token's gradient depends on the whole sentence, so prefixes cannot be tested token
    by token; open blocks higher up do not change the inputs of the first two blocks.
Fails: with next-token labels, which an open model copies from its input; the model cannot generate text.
Source: Dukic, Snajder 2024, arXiv 2401.14556, section 3.
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
from fedsim.core.types import Config, MethodDescription, Modality

_BLOCKS, _ATTENTION = "layers", "self_attn"


class CausalMaskRemovalConfig(Config):
    """Settings of causal-mask removal."""

    open: str = Field(
        pattern="^[01]+$",
        description="a digit per group of blocks, lowest first; 1: the group has no causal mask",
        examples=["01"],
    )


def configurations(groups: int) -> tuple[str, ...]:
    """Return all values of `open` in the paper's order: the last digit (top group) varies fastest."""
    return tuple(f"{number:0{groups}b}" for number in range(2**groups))


def open_blocks(chosen: str, blocks: int) -> tuple[bool, ...]:
    """Return for each block, from the bottom, whether a value of `open` opens it.

    A group has blocks // groups consecutive blocks; the top group also contains the remainder.

    Raises:
        NotApplicable: more groups than blocks.
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
    summary="tokens see later tokens in chosen blocks of a decoder",
    tier="research",
    paper="2401.14556",
    fidelity="reproduction",
    paper_steps=(
        ("groups of blocks without causal mask", "configurations"),
        ("open blocks see later tokens", "CausalMaskRemoval.prepare"),
    ),
)
class CausalMaskRemoval(Adapter[CausalMaskRemovalConfig]):
    """Changes the attention mask of open blocks in training and evaluation; the weights do not change."""

    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return `model` with hooks on its open blocks; if any block is open, `generate` raises.

        Raises:
            NotApplicable: no list of blocks with Llama's names, too few blocks, or an attention other than eager, which
                may ignore the mask.
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

    def public_description(self) -> MethodDescription:
        """Return the open groups."""
        return MethodDescription("causal-mask-removal", settings=self.config.model_dump())


@final
class _Sight:
    """Padding information of the current forward pass, from which open blocks build their attention masks."""

    def __init__(self, padding: int | None) -> None:
        self._padding = padding
        self._is_real: Tensor | None = None  # (B, T), set only during a forward pass

    def begin(self, _model: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Store which tokens (B, T) are real, i.e. not trailing padding."""
        (tokens, *_) = inputs
        if self._padding is None:
            self._is_real = torch.ones_like(tokens, dtype=torch.bool)
            return
        self._is_real = (tokens != self._padding).long().flip(1).cumsum(1).flip(1) > 0

    def end(self, _model: nn.Module, _inputs: object, _outputs: object) -> None:
        """Clear the stored token mask."""
        self._is_real = None

    def unmask(
        self, _block: nn.Module, inputs: tuple[Any, ...], settings: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the block's arguments with an attention mask (B, 1, T, T) that hides only padding.

        Raises:
            FedsimError: the block uses a key-value cache, or runs outside its model's forward pass.
        """
        if settings.get("use_cache") or self._is_real is None:
            raise FedsimError(
                "a block without causal mask needs all tokens at once. Run the whole model, without a cache."
            )
        hidden: Tensor = inputs[0]
        length = hidden.shape[1]
        mask = torch.zeros_like(self._is_real, dtype=hidden.dtype)
        mask = mask.masked_fill(~self._is_real, torch.finfo(hidden.dtype).min)
        return inputs, {**settings, "attention_mask": mask[:, None, None, :].expand(-1, 1, length, -1)}


def _blocks(model: nn.Module) -> Sequence[nn.Module]:
    stacks = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and name.rpartition(".")[2] == _BLOCKS
        and all(hasattr(block, _ATTENTION) for block in module)
    ]
    if len(stacks) != 1 or not len(stacks[0]):
        raise NotApplicable(
            f"component 'causal-mask-removal': the model has no list of blocks '{_BLOCKS}' with an attention "
            f"'{_ATTENTION}' each, as tiny-llama and Llamas of the transformers package have."
        )
    kept_to = {
        getattr(getattr(block.self_attn, "config", None), "_attn_implementation", "eager") for block in stacks[0]
    }
    if kept_to != {"eager"}:
        raise NotApplicable(
            f"component 'causal-mask-removal': the attention is computed as '{', '.join(sorted(kept_to))}', which may "
            "ignore the mask it is given. Load the model with attn_implementation = 'eager'."
        )
    return list(stacks[0])


def _refuse_to_generate(*_arguments: object, **_settings: object) -> NoReturn:
    raise FedsimError(
        "a model with open blocks cannot generate text: a new token changes the hidden states of earlier "
        "tokens. Leave out component 'causal-mask-removal'."
    )
