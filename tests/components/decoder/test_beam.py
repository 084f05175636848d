"""Beam search against all texts there are, and against the transformers package."""

import math
from typing import Any

import pytest
import torch

from fedsim.components.decoder._odds import DrawConfig
from fedsim.core.types import Limits
from fedsim.generation import generate
from tests.components.decoder.asking import ASKED, reference
from tests.components.generating import greedy, make, prompts, sources, tiny_llama
from tests.components.laws import law

SMALL, LENGTH, STOP = 5, 4, 3


def test_of_one_beginning_it_is_greedy() -> None:
    model, texts = tiny_llama(), [[1, 2, 3], [4]]
    found = generate(make("beam", width=1), model, prompts(*texts), Limits(max_new_tokens=9), sources(2))
    assert [list(own.tokens) for own in found] == greedy(model, texts, 9)
    assert all(own.trace.tokens == (1,) * 9 for own in found)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("prompt", [[1, 2], [4], [0, 0, 2]])
def test_a_beam_as_wide_as_the_tree_finds_the_best_text(prompt: list[int], penalty: float) -> None:
    model = tiny_llama(SMALL).eval()
    odds: dict[tuple[int, ...], float] = {}
    for text, p in law(model, prompt, SMALL, LENGTH, DrawConfig(temperature=1.0)).items():
        end = text.index(STOP) + 1 if STOP in text else LENGTH
        odds[text[:end]] = odds.get(text[:end], 0.0) + p
    best = max(odds, key=lambda text: math.log(odds[text]) / len(text) ** penalty)
    limits = Limits(max_new_tokens=LENGTH, stop_tokens=frozenset({STOP}))
    (found,) = generate(make("beam", width=SMALL**3, penalty=penalty), model, prompts(prompt), limits, sources(1))
    assert found.tokens == best
    assert found.ending == ("stop" if STOP in best else "length")


def test_texts_are_those_of_the_package() -> None:
    ours, theirs = reference()
    for width in (2, 5):
        texts = generate(make("beam", width=width), ours, ASKED, Limits(max_new_tokens=12), sources(4))
        for prompt, own in zip(ASKED.prompts, texts, strict=True):
            tokens = torch.tensor([prompt])
            asked: dict[str, Any] = {"do_sample": False, "max_new_tokens": 12, "min_new_tokens": 12}
            text = theirs.generate(tokens, attention_mask=torch.ones_like(tokens), num_beams=width, **asked)
            assert list(own.tokens) == text[0, len(prompt) :].tolist()


def test_a_token_is_written_when_all_beginnings_agree() -> None:
    (found,) = generate(make("beam", width=3), tiny_llama(), prompts([1, 2]), Limits(max_new_tokens=8), sources(1))
    assert sum(found.trace.tokens) == 8
    assert found.trace.tokens[0] == 0, "after one step there are three of them"
    assert found.trace.series()["rows"] == (1, *[3] * (len(found.trace.tokens) - 1))
