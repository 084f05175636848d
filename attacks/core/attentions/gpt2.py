"""gpt2: a single layer computes queries, keys and values, and stores its weight as (inputs, outputs).

Idea: c_attn reads the normalised tokens; its gradient is transposed before its rows are used.
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
    """Name of the layer and its weight layout."""

    readers: ClassVar[tuple[str, ...]] = ("c_attn",)

    def rows(self, layer: nn.Module, gradient: Tensor) -> Tensor:
        """Return the gradient as (outputs, inputs): a Conv1D of transformers stores the transpose."""
        return gradient.T if type(layer).__name__ == "Conv1D" else gradient
