"""bert: query, key and value have a layer each, as in BERT, RoBERTa, ELECTRA and their kin.

Idea: the three layers read the sum of the embeddings of token, place and type, normalised; every token sees all others.
Fails: texts with tokens of the second type, since candidates are read with the first one.
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
    """Names the three layers."""

    readers: ClassVar[tuple[str, ...]] = ("query", "key", "value")
