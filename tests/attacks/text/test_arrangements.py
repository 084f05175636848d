"""Texts are put together from the tokens at their places, by trying all of them or by descents: the same texts."""

import itertools

import pytest
import torch

from attacks.core.results import NothingFound
from attacks.text import _arrangements
from attacks.text._arrangements import arrange, arrange_tokens
from attacks.text._masked_places import spans_with_masks
from fedsim.core import seeding
from fedsim.core.nets.masked_positions import mask_token
from tests.attacks.text.planted import SENTENCES, reading, spec
from tests.attacks.written import masked_texts


@pytest.mark.parametrize("most_tried", [50_000, 0])
def test_all_arrangements_and_descents_find_what_the_client_read(
    most_tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    observation, truth = masked_texts(2)
    monkeypatch.setattr(_arrangements, "_FEW", most_tried)
    mask = mask_token(observation.model)
    true = truth.original_batches[0].inputs.masked_fill(truth.draws[0]["task.masked"], mask)
    reading, tokens = spans_with_masks(observation)
    found = arrange_tokens(reading, tokens, 2, 20, seeding.generator(0, "attack"))
    assert sorted(found.tolist()) == sorted(true.tolist())
    wrong = [torch.tensor([(int(token[0]) + 7) % mask]) for token in tokens]
    with pytest.raises(NothingFound, match="no arrangement of the tokens"):
        arrange_tokens(reading, wrong, 2, 2, seeding.generator(0, "attack"))


def test_arrangements_of_all_lengths_are_those_that_trying_all_finds() -> None:
    def found(tokens: list[torch.Tensor], most: int | None, length: int = 4) -> set[tuple[int, ...]]:
        generator = seeding.generator(0, "attack")
        return {own.tokens for own in arrange(planted, tokens, spec(length), most, 2, generator, lambda _step: None)}

    planted = reading()
    planted = planted._replace(spaces=[planted.spaces[0], planted.spaces[1]._replace(size=9.0)])  # 3 + 2 + 4 tokens
    tokens = [torch.tensor([1, 2, 4, 5])] * 4
    every = {own for t in range(1, 5) for own in itertools.product([1, 2, 4, 5], repeat=t)}
    assert found(tokens, None) == found(tokens, 2) == every & set(SENTENCES)
    assert found([torch.tensor([1, 2]), torch.tensor([4]), torch.empty(0).long()], 3, 3) == {(1, 4)}
    with pytest.raises(NothingFound, match="the model looks ahead, and no arrangement of the tokens at their places"):
        found([torch.tensor([6, 7])] * 2, 3, 2)
    no_room = planted._replace(spaces=[planted.spaces[0], planted.spaces[1]._replace(size=1.0)])
    with pytest.raises(NothingFound, match="the model looks ahead"):
        arrange(no_room, tokens, spec(), 3, 2, seeding.generator(0, "attack"), lambda _step: None)
