"""A model with its tokenizer, ready to write."""

import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.core.types import Event, Trace
from fedsim.data._tokenizer import WordTokenizer
from fedsim.generation.writer import load_writer, words


def test_half_a_letter_waits() -> None:
    tokens = list("aé€".encode())
    assert list(words(WordTokenizer(), ([token] for token in tokens))) == ["a", "é", "€", ""]
    assert "".join(words(WordTokenizer(), ([token] for token in tokens[:-1]))) == "aé\ufffd"


def test_layers_are_shares_of_a_full_pass() -> None:
    writer = load_writer("tiny-llama")
    assert writer.passes(Trace((1, 2), (Event(layers=1), Event(layers=2)))) == 1.5
    assert writer.passes(Trace((1, 2), (Event(accepted=1), Event(accepted=2)))) == 2
    assert writer.passes(Trace((1, 2), (Event(rows=1), Event(rows=9)))) == 10


def test_the_seed_draws_the_weights_of_a_model_that_is_not_trained() -> None:
    def weights(seed: int) -> list[float]:
        return next(load_writer("tiny-llama", seed=seed).model.parameters()).flatten()[:5].tolist()

    before = torch.get_rng_state()
    assert weights(1) == weights(1) != weights(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert not load_writer("tiny-llama").model.training


def test_a_path_that_is_no_folder_and_a_name_that_is_none_are_told_apart() -> None:
    with pytest.raises(FedsimError, match="no folder not/there"):
        load_writer("not/there")
    with pytest.raises(FedsimError, match="Did you mean 'tiny-llama'"):
        load_writer("tiny-lama")
