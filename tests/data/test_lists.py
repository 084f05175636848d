"""Answers of list operations against what each says of itself, edit by edit."""

from itertools import permutations

import pytest
import torch

from fedsim.data._lists import OPERATIONS, ListTokenizer, Sample, draw_sample

TOKENS = ListTokenizer()


def says(sample: Sample, given: tuple[int, ...]) -> bool:
    """Whether a list answers, by the properties that ParallelBench names."""
    items, word, index = sample.items, sample.word, sample.place
    rest = [tensor for tensor in given if tensor != word]
    match sample.operation:
        case "shuffle":
            return set(given) == set(items) and len(given) == len(items) and given != items
        case "insert-random":
            return given.count(word or 0) == 1 and tuple(rest) == items
        case "remove-random":
            return len(given) == len(items) - 1 and any(given == items[:i] + items[i + 1 :] for i in range(len(items)))
        case "replace-random":
            return any(given == (*items[:i], word, *items[i + 1 :]) for i in range(len(items)))
    exact = {
        "copy": items,
        "reverse": tuple(reversed(items)),
        "sort": tuple(sorted(items)),
        "insert-index": (*items[: index or 0], word, *items[index or 0 :]),
        "remove-index": (*items[: index or 0], *items[(index or 0) + 1 :]),
        "replace-index": (*items[: index or 0], word, *items[(index or 0) + 1 :]),
    }
    return given == exact[sample.operation]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_answer_is_accepted_and_every_edit_of_it_that_is_none_is_not(operation: str) -> None:
    for seed in range(5):
        sample = draw_sample(operation, 4, torch.Generator().manual_seed(seed))
        known = list(sample.answers())
        assert len(set(known)) == len(known)
        if operation == "shuffle":
            assert set(known) == set(permutations(sample.items)) - {sample.items}
        for own in known:
            assert sample.is_answer(own)
            assert says(sample, own)
            edits = [own[:-1], (*own, 25), own[::-1], *((*own[:i], 24, *own[i + 1 :]) for i in range(len(own)))]
            assert all(sample.is_answer(edit) == says(sample, edit) for edit in edits)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_letters_differ_and_new_ones_are_not_in_the_list(operation: str) -> None:
    for seed in range(30):
        sample = draw_sample(operation, 6, torch.Generator().manual_seed(seed))
        assert len(set(sample.items)) == 6
        assert sample.word not in sample.items
        assert (sample.word is None) == (not operation.startswith(("insert", "replace")))
        assert sample.place is None or 0 <= sample.place < 6 + (operation == "insert-index")


def test_an_answer_is_read_back_and_other_tokens_are_none() -> None:
    assert TOKENS.parse_list(TOKENS.answer([3, 1, 2])) == [3, 1, 2]
    a, end = TOKENS.letters([0])[0], TOKENS.end
    assert TOKENS.parse_list([a, end, a, end]) is None
    assert TOKENS.parse_list([a, TOKENS.padding, end]) is None
    assert len(TOKENS.prompt(Sample("copy", (1, 2, 3)))) == TOKENS.prompt_length
    assert TOKENS.decode(TOKENS.prompt(Sample("insert-index", (0, 1), 2, 25))) == "[ insert-index 2 Z A B ]"
    assert TOKENS.encode("[ insert-index 2 Z A B ]") == [
        own for own in TOKENS.prompt(Sample("insert-index", (0, 1), 2, 25)) if own != TOKENS.padding
    ]
