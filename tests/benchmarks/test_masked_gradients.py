"""The benchmark of masked gradients: what its rows are measured on."""

import torch

from benchmarks import masked_gradients as own
from fedsim.core.types import Reconstruction


def guess(inputs: torch.Tensor, facts: dict[str, float]) -> Reconstruction:
    none = torch.zeros(len(inputs), dtype=torch.long)
    return Reconstruction(inputs, none, None, 0.0, 1, 1, (), "read", (), facts)


def test_single_sentences_are_read_with_their_rates_and_a_wrong_one_does_not_count() -> None:
    seen = list(own._observed(own._world(1, **own._SMALL), 3, own._KNOWN))
    assert all(truth.draws[0]["task.masked"].any() for _, truth in seen)
    assert [row.value for row in own._texts(seen, "")] == [1.0, 1.0]
    _, truth = seen[0]
    inputs = truth.private[0].inputs
    assert own._match_of(guess(inputs + 1, {}), truth, 0) == (-1, False)
    assert own._match_of(guess(inputs, {"masking rate of sentence 1": 9.0}), truth, 0) == (0, False)


def test_words_are_those_of_the_two_layers() -> None:
    seen = list(own._observed(own._world(2, **own._SMALL), 2, own._KNOWN))
    assert {row.name: row.value for row in own._words(seen, "")} == {
        "visible words found": 1.0,
        "found words that are visible": 1.0,
        "masked words found": 1.0,
        "found words that are masked": 1.0,
    }


def test_two_sentences_whose_arrangements_are_too_many_to_try_are_sought_and_read() -> None:
    seen = list(own._observed(own._world(2), 1, own._KNOWN))
    assert [row.value for row in own._texts(seen, "")] == [1.0, 1.0]


def test_each_sentence_gets_the_guess_that_it_agrees_with_most() -> None:
    _, truth = next(own._observed(own._world(2, **own._SMALL), 1, own._KNOWN))
    sentences, masked = own._trained(truth)
    guesses = sentences.flip(0).clone()
    guesses[0, 0] += 1
    right, hidden = own._right(guesses, truth)
    assert torch.equal(hidden, masked)
    assert (~right).nonzero().tolist() == [[len(sentences) - 1, 0]]


def test_next_tokens_of_a_causal_model_stand_out_without_much_noise_and_not_under_it() -> None:
    rows = own._causal(2)
    assert [row.value for row in rows[:1]] == [1.0]
    assert rows[0].value >= rows[1].value >= rows[2].value >= rows[3].value
    assert rows[3].value < 0.5
