"""What a language model remembers: secrets that it was trained on, and texts that it writes on."""

from pathlib import Path

import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch
from fedsim.release import finished, memory
from tests.release import hospital, texts


def test_texts_that_it_knows_by_heart_are_written_on_and_others_are_not(tmp_path: Path) -> None:
    attack, control = memory.find_texts(finished.read(texts.plan(tmp_path, 1)), 0)
    assert (attack.value.value, attack.n, attack.chance_level, attack.p_value) == (1.0, 20, 0.0, 0.001)
    assert attack.is_above_chance
    assert (control.value.value, control.n) == (0.0, 20)


@pytest.mark.slow
def test_texts_of_others_than_it_knows_are_not_written_on(tmp_path: Path) -> None:
    attack, _ = memory.find_texts(finished.read(texts.plan(tmp_path, 3)), 0)
    assert attack.value.value == 0.0


def test_planted_secrets_rank_first_and_others_of_their_form_do_not(tmp_path: Path) -> None:
    model = finished.read(texts.plan(tmp_path, 1))
    planted = memory.read_secrets(f"{texts.__name__}:secrets", model)
    attack, control = memory.find_secrets(planted, model, 0)
    assert (attack.label, attack.n, attack.is_above_chance) == ("secrets planted 1 x", 6, True)
    assert attack.value.value > 8  # of at most log2(1001) = 9.97 bits
    # What was never planted has a uniform rank among 1,001: six have a mean above 6 bits in 2 of a million draws.
    assert control.value.value < 6


def test_what_fills_up_a_text_is_not_written_on() -> None:
    mask = torch.tensor([[1] * 9 + [0] * 3, [1] * 5 + [0] * 7])
    tokens = torch.arange(24).reshape(2, 12)
    assert memory._texts(Batch(tokens, tokens, {"attention_mask": mask})) == [tuple(range(9))]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("misshapen", "'code a is12x4' has not the form '####': # is a digit"),
        ("one_word", "returned no list of secrets, expected a list of \\(beginning, secret, form, repetitions\\)"),
    ],
)
def test_secrets_that_are_none_are_refused(tmp_path: Path, name: str, sentence: str) -> None:
    with pytest.raises(FedsimError, match=sentence):
        memory.read_secrets(f"{texts.__name__}:{name}", finished.read(texts.plan(tmp_path, 1)))


def test_a_model_of_pictures_has_no_secrets(tmp_path: Path) -> None:
    model = finished.read(hospital.plan(hospital.saved(tmp_path, 1)))
    assert list(memory.find_texts(model, 0)) == []
    assert memory.read_secrets(None, model) == []
    with pytest.raises(FedsimError, match=r"--secrets needs a language model with Subject\(tokenizer="):
        memory.read_secrets(f"{texts.__name__}:secrets", model)


def test_texts_of_the_shortest_length_count_and_shorter_texts_do_not() -> None:
    mask = torch.tensor([[1] * length + [0] * (12 - length) for length in (7, 8, 9)])
    tokens = torch.arange(36).reshape(3, 12)
    assert [len(text) for text in memory._texts(Batch(tokens, tokens, {"attention_mask": mask}))] == [8, 9]


def test_at_most_a_hundred_texts_are_completed() -> None:
    tokens = torch.arange(101 * 8).reshape(101, 8)
    assert memory._texts(Batch(tokens, tokens)) == [tuple(row) for row in tokens[:100].tolist()]


def test_every_decoy_has_the_form_and_its_own_value(tmp_path: Path) -> None:
    planted = memory.read_secrets(f"{texts.__name__}:secrets", finished.read(texts.plan(tmp_path, 1)))[0]
    decoys = [memory._never_planted(planted, 0, number).text.removeprefix(planted.prompt) for number in range(6)]
    assert len({*decoys, planted.text.removeprefix(planted.prompt)}) == 7
    assert all(len(value) == 4 and value.isdigit() for value in decoys)
    assert memory._never_planted(planted, 1, 0).text.removeprefix(planted.prompt) != decoys[0]
