"""gpt2: one layer gives queries, keys and values, and holds its weight as (inputs, outputs).

Idea: c_attn reads the normalised tokens; its gradient is turned before its rows are used.
Fails: adapters of other packages inside of it.
Source: Radford et al. 2019, Language models are unsupervised multitask learners; names of the transformers package.
"""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor, nn

from attacks.core.attention import Attention
from fedsim.core.registry import attention
from fedsim.core.types import Config


@final
@attention("gpt2", summary="c_attn, as in GPT-2", related="Radford et al. 2019, GPT-2")
class Gpt2Attention(Attention[Config]):
    """Names the one layer."""

    readers: ClassVar[tuple[str, ...]] = ("c_attn",)

    def rows(self, layer: nn.Module, gradient: Tensor) -> Tensor:
        """Return the gradient as (outputs, inputs): a Conv1D of transformers holds it the other way round."""
        return gradient.T if type(layer).__name__ == "Conv1D" else gradient
