"""Greedy text against the transformers package."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.types import Limits
from fedsim.generation import generate
from tests.components.decoder.asking import ASKED, LONG, reference
from tests.components.generating import make, prompts, sources


def test_greedy_text_is_that_of_the_package_token_by_token() -> None:
    ours, theirs = reference()
    texts = generate(make("greedy"), ours, ASKED, LONG, sources(4))
    for prompt, text in zip(ASKED.prompts, texts, strict=True):
        tokens = torch.tensor([prompt])
        asked: dict[str, Any] = {"do_sample": False, "max_new_tokens": 20, "min_new_tokens": 20}
        written = theirs.generate(tokens, attention_mask=torch.ones_like(tokens), **asked)
        assert text.tokens == tuple(written[0, len(prompt) :].tolist())
        assert text.ending == "length"
    assert len({own.tokens for own in texts}) == 4
    assert all(len(set(own.tokens)) > 2 for own in texts), "a text of one token would prove little"


def test_greedy_takes_the_first_of_equals() -> None:
    class Equal(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return torch.tensor([0.0, 1.0, 1.0]).expand(*tokens.shape, -1)

    (found,) = generate(make("greedy"), Equal(), prompts([2]), Limits(max_new_tokens=2), sources(1))
    assert found.tokens == (1, 1)


def test_a_tagger_writes_no_text() -> None:
    class Tagger(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return torch.zeros(len(tokens), 3)

    with pytest.raises(FedsimError, match=r"returns scores of shape \(1, 3\) .* Use a causal language model"):
        generate(make("greedy"), Tagger(), prompts([1, 2]), LONG, sources(1))
