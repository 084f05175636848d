"""The search for the likeliest filling against the enumeration of all of them."""

import itertools
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedsim.data._tokenizer import WordTokenizer
from fedsim.metrics.exposure import fill, log_perplexities, space_of
from fedsim.questions.exposure.likeliest import likeliest


class Random(nn.Module):
    """A language model with random weights, whose scores depend on all that was read."""

    def __init__(self, seed: int, tokens: int, scale: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embedding = torch.randn(tokens, 16, generator=generator)
        self.head = scale * torch.randn(16, tokens, generator=generator)
        self.shown = 0

    def forward(self, tokens: Tensor) -> Tensor:
        self.shown += len(tokens)
        own = self.embedding[tokens]
        return (own + 0.5 * own.cumsum(1)) @ self.head


def fillings(form: str) -> Iterator[str]:
    return (fill(form, number) for number in range(space_of(form)))


@given(st.integers(0, 200), st.sampled_from([" ##.", "?", " #-?.", "##"]), st.sampled_from([0.0, 0.1, 1.0]))
def test_it_is_the_best_of_all_fillings(seed: int, form: str, scale: float) -> None:
    tokenizer = WordTokenizer()
    model = Random(seed, tokenizer.vocabulary, scale)
    found = likeliest(model, "It is", form, tokenizer, limit=10**6)
    texts = ["It is" + filling for filling in fillings(form)]
    bits = log_perplexities(model, [tokenizer.encode(text) for text in texts], tokenizer)
    own = log_perplexities(model, [tokenizer.encode(found.text)], tokenizer)
    assert found.text in texts
    assert float(own) == pytest.approx(float(bits.min()), abs=1e-4)
    beginning = float(log_perplexities(model, [tokenizer.encode("It is")], tokenizer))
    assert beginning + found.bits == pytest.approx(float(own), abs=1e-3)


class Pairs:
    """Reads two digits as one token where it can, from the left; other text in bytes."""

    padding, begin, end = 256, None, 257
    ends = frozenset({end})
    vocabulary = 358

    def encode(self, text: str) -> list[int]:
        tokens: list[int] = []
        while text:
            is_pair = len(text) > 1 and text[:2].isdigit()
            tokens.append(258 + int(text[:2]) if is_pair else ord(text[0]))
            text = text[2:] if is_pair else text[1:]
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(f"{token - 258:02d}" if token > 257 else chr(token) if token < 256 else "" for token in tokens)


@pytest.mark.slow
@given(st.integers(0, 100), st.sampled_from(["###", "#-##", " ##."]), st.sampled_from(["It is", "It is 1"]))
@settings(max_examples=40)  # of 606
def test_of_several_ways_to_cut_a_filling_the_tokenizers_own_counts(seed: int, form: str, prompt: str) -> None:
    tokenizer = Pairs()
    model = Random(seed, tokenizer.vocabulary, 1.0)
    found = likeliest(model, prompt, form, tokenizer, limit=10**6)
    texts = [prompt + filling for filling in fillings(form)]
    bits = log_perplexities(model, [tokenizer.encode(text) for text in texts], tokenizer)
    assert found.text == texts[int(bits.argmin())]


def test_what_was_learned_by_heart_is_found_at_once_in_a_space_that_nobody_enumerates() -> None:
    tokenizer, secret = WordTokenizer(), "It is 123456789."

    class Heart(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            scores = torch.zeros(*tokens.shape, tokenizer.vocabulary)
            for first, second in itertools.pairwise(tokenizer.encode(secret)):
                scores[..., second] += 9.0 * (tokens == first)
            return scores

    found = likeliest(Heart(), "It is", " #########.", tokenizer, limit=1000)
    assert found.text == secret
    assert found.evaluated_prefixes < 1000


def test_it_gives_up_where_it_is_told_to() -> None:
    tokenizer = WordTokenizer()
    model = Random(0, tokenizer.vocabulary, 0.0)
    assert likeliest(model, "It is", " #########.", tokenizer, limit=50) is None
    assert model.shown == 50
