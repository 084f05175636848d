"""Blocks of a language model as modules, for components that add hooks or modules to each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fedsim.core.errors import NotApplicable

_BLOCKS, _ATTENTION = "layers", "self_attn"


def blocks_of(model: nn.Module, method: str) -> Sequence[nn.Module]:
    """Return the blocks in order. Each maps hidden states (B, T, width), its first argument, to hidden states.

    Args:
        model: model of Llama's kind.
        method: name of the requesting component.

    Raises:
        NotApplicable: the model has no blocks with Llama's names.
    """
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or name.rpartition(".")[2] != _BLOCKS:
            continue
        if len(module) and all(hasattr(block, _ATTENTION) for block in module):
            return list(module)
    raise NotApplicable(
        f"component '{method}': the model has no list of blocks '{_BLOCKS}' with an attention '{_ATTENTION}' each, as "
        "tiny-llama and Llamas of the transformers package have."
    )


def states_in(output: Any) -> Tensor:
    """Return the hidden states in a block's output; older releases of the transformers package return a tuple."""
    return output[0] if isinstance(output, tuple) else output


def with_states(output: Any, hidden: Tensor) -> Any:
    """Replace the hidden states in a block's output."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
