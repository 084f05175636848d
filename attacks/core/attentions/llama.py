"""llama: queries, keys and values have a layer each, as in Llama and most later decoders.

Idea: q_proj, k_proj and v_proj read the same normalised tokens.
Fails: models that join the three in a layer of another name.
Source: Touvron et al. 2023, arXiv 2302.13971; names of the transformers package.
"""

from __future__ import annotations

from typing import ClassVar, final

from attacks.core.attention import Attention
from fedsim.core.registry import attention
from fedsim.core.types import Config


@final
@attention("llama", summary="q_proj, k_proj and v_proj, as in Llama", related="2302.13971")
class LlamaAttention(Attention[Config]):
    """Names of the three layers."""

    readers: ClassVar[tuple[str, ...]] = ("q_proj", "k_proj", "v_proj")
