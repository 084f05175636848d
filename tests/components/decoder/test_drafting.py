"""Drafts are no longer than what the model can read and what the text may still gain."""

from typing import Any

import pytest

from fedsim.components.decoder._drafting import DraftedTexts
from fedsim.core.hooks import GenerationContext
from fedsim.core.types import Limits
from fedsim.generation import generate
from tests.components.generating import make, prompts, sources, tiny_llama


@pytest.mark.parametrize(
    ("most", "context", "expected"),
    [(99, None, 5), (99, 12, 4), (99, 10, 2), (99, 8, 0), (99, 4, 0), (6, 99, 3), (3, None, 0), (2, None, 0)],
)
def test_no_more_is_drafted_than_can_be_read_and_than_counts(most: int, context: int | None, expected: int) -> None:
    state = DraftedTexts(((1,), (1,) * 7), (1, 5))  # two tokens of the second row are written
    limits = Limits(max_new_tokens=most, context=context)
    assert state.room(1, GenerationContext((), limits), 5) == expected


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("speculative", {"layers": 1, "length": 9}),
        ("sure-spans", {"pads": 9, "beta": 0.0}),
        ("aded", {"prompt": True, "adaptive": False, "depth": 9}),  # of this prompt, each draft is a line
        ("dynamic-exit", {"longest": 9, "dynamic": False}),
    ],
)
@pytest.mark.parametrize("most", [1, 2, 5])
def test_no_decoder_drafts_tokens_that_cannot_count(name: str, settings: dict[str, Any], most: int) -> None:
    asked, limits = prompts([1, 2, 3] * 4), Limits(max_new_tokens=most)
    (text,) = generate(make(name, **settings), tiny_llama(), asked, limits, sources(1))
    left = most
    for proposed, written in zip(text.trace.series()["proposed"], text.trace.tokens, strict=True):
        assert proposed < left
        left -= written
    assert left == 0
    assert text.trace.series()["accepted"] == tuple(written - 1 for written in text.trace.tokens)
