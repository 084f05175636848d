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
    assert own._found(guess(inputs + 1, {}), truth, 0) == (-1, False)
    assert own._found(guess(inputs, {"masking rate of sentence 1": 9.0}), truth, 0) == (0, False)


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
