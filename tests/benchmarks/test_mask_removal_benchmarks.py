"""The benchmarks of open blocks measure what they say, and what the paper claims is found on a small scale."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import mask_removal, mask_removal_privacy


@given(st.integers(1, 4), st.integers(1, 4))
def test_arrangements_are_all_sequences_of_every_length(words: int, longest: int) -> None:
    every = [own for length in range(1, longest + 1) for own in itertools.product(range(words), repeat=length)]
    assert mask_removal_privacy.arrangements(words, longest) == len(every)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True))
def test_beginnings_are_the_true_ones_with_each_word_behind(sentence: list[int]) -> None:
    tried = {(*sentence[:length], word) for length in range(len(sentence) + 1) for word in sentence}
    assert mask_removal_privacy.beginnings(len(sentence), len(sentence)) == len(tried)


def test_the_rank_of_a_gradient_is_that_of_its_factors_through_rounding() -> None:
    generator = torch.Generator().manual_seed(0)
    product = torch.randn(40, 7, generator=generator) @ torch.randn(7, 50, generator=generator)
    assert mask_removal_privacy.rank(product) == 7


@pytest.mark.parametrize(
    ("chosen", "lowest", "second"), [("0000", 0, 0), ("0001", 0, 0), ("1000", 1, 0), ("1111", 1, 1)]
)
def test_tokens_are_read_behind_every_mask_and_ranks_tell_which_block_looks_ahead(
    chosen: str, lowest: int, second: int
) -> None:
    """Of a sentence of different words: a first token that sees itself alone has no query's gradient."""
    own = mask_removal_privacy.federation(chosen, 1, 5)
    padding = own.data.dataset.spec.padding
    sent = [next(iter(own.data.batches(1, client))).inputs[0] for client in range(20)]
    words = [[token for token in row.tolist() if token != padding] for row in sent]
    client = next(number for number, row in enumerate(words) if len(set(row)) == len(row) > 2)
    tokens = len(words[client])
    found = mask_removal_privacy.attacked(own, client, own.models.first_weights)
    assert found["rank of dWq over tokens, block 0"] * tokens == pytest.approx(tokens - 1 + lowest)
    assert found["rank of dWq over tokens, block 1"] * tokens == pytest.approx(tokens - 1 + second)
    assert found["tokens read exactly by dager"] == found["sentences read exactly by dager"] == 1.0
    assert found["words read, share of all"] == found["words read, share that is right"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("task", ["next-word", "this-word"])
def test_open_blocks_help_where_the_next_word_decides_and_nowhere_else(task: str) -> None:
    closed, opened = (mask_removal.tagger(mask_removal.SMALL, task, chosen, 0) for chosen in ("000", "010"))
    frequent = mask_removal.majority(closed)
    accuracies = [mask_removal.accuracy(own, mask_removal.trained(own)) for own in (closed, opened)]
    if task == "this-word":
        assert min(accuracies) > 0.98
        return
    assert accuracies[0] < frequent + 0.05
    assert accuracies[1] > frequent + 0.15
