"""Tokens that end a clause, for decoders that look ahead to the end of a clause."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from fedsim.core.types import Tokenizer

SIGNS = ".,\n?!:;)]}"


@lru_cache(maxsize=8)
def clause_ends(tokenizer: Tokenizer, rule: Literal["signs", "endings"]) -> frozenset[int]:
    """Return the tokens that end a clause.

    Args:
        tokenizer: the model's tokenizer.
        rule: signs: the first token of each punctuation sign, encoded alone; endings: also each token whose text,
            without spaces, ends in a sign, e.g. the token "3." of "3.14".
    """
    lone_signs = {tokens[0] for sign in SIGNS if (tokens := tokenizer.encode(sign))}
    if rule == "signs":
        return frozenset(lone_signs)
    texts = ((token, tokenizer.decode([token]).strip(" ")) for token in range(tokenizer.vocabulary))
    return frozenset(lone_signs | {token for token, text in texts if text and text[-1] in SIGNS})
