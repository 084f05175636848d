"""bert: query, key and value have a layer each, as in BERT, RoBERTa, ELECTRA and related models.

Idea: the three layers read the normalised sum of token, position and type embeddings; every token attends to all
    others.
Fails: texts with tokens of the second type, since candidates are embedded with the first type.
Source: Devlin, Chang, Lee, Toutanova 2018, arXiv 1810.04805; names of the transformers package.
"""

from __future__ import annotations

from typing import ClassVar, final

from attacks.core.attention import Attention
from fedsim.core.registry import attention
from fedsim.core.types import Config


@final
@attention("bert", summary="query, key and value, as in BERT", related="1810.04805")
class BertAttention(Attention[Config]):
    """Names of the three layers."""

    readers: ClassVar[tuple[str, ...]] = ("query", "key", "value")
