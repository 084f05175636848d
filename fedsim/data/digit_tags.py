"""Synthetic sentences with tags that depend on whether the next word, or the word itself, names a digit.

No paper. Words are sampled independently, so only the next word determines a tag of the first kind: a tagger that does
not see later words is no better than the more frequent tag. Leakage: nothing, the text is synthetic.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from fedsim.core import seeding
from fedsim.core.registry import dataset
from fedsim.core.types import Dataset
from fedsim.data._tags import OUTSIDE, Sentence, build_tagged_set
from fedsim.data._text import TokenConfig

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_WORDS = (
    "river", "stone", "green", "walks", "under", "lamp", "while", "house", "about", "winter", "garden", "small",
    "paper", "water", "light", "sings", "white", "table", "music", "bread", "cloud", "horse", "field", "door",
)  # fmt: skip
_TAG = "B"


class DigitTagsConfig(TokenConfig):
    """Settings of digit-tags."""

    length: int = Field(default=12, ge=2, description="words of the longest sentences; the shortest have half as many")
    decided_by: Literal["next-word", "this-word"] = Field(
        default="next-word", description="which word must name a digit for the tag B"
    )
    digits: float = Field(default=0.3, gt=0, lt=1, description="probability that a word names a digit")
    sentences: int = Field(default=400, ge=2, description="number of sentences, training and test together")


@dataset("digit-tags", summary="made-up sentences; a word's tag depends on the next word, or on itself")
def digit_tags(config: DigitTagsConfig) -> Dataset:
    """Generate the sentences.

    Raises:
        FedsimError: the tokenizer cannot be read.
        MissingExtra: an optional package is needed that is not installed.
    """
    generator = seeding.generator(config.seed, "digit tags")
    return build_tagged_set(config, [[_sentence(config, generator)] for _ in range(config.sentences)])


def _sentence(config: DigitTagsConfig, generator: torch.Generator) -> Sentence:
    count = int(torch.randint(config.length // 2, config.length + 1, (), generator=generator))
    are_digits: list[bool] = (torch.rand(count, generator=generator) < config.digits).tolist()
    chosen: list[int] = torch.randint(len(_DIGITS) * len(_WORDS), (count,), generator=generator).tolist()
    words = [
        (_DIGITS if is_digit else _WORDS)[number % len(_DIGITS if is_digit else _WORDS)]
        for is_digit, number in zip(are_digits, chosen, strict=True)
    ]
    decisive = are_digits if config.decided_by == "this-word" else [*are_digits[1:], False]
    return tuple((word, _TAG if is_tagged else OUTSIDE) for word, is_tagged in zip(words, decisive, strict=True))
