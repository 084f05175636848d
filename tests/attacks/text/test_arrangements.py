"""Texts are put together from the tokens at their places, by trying all of them or by descents: the same texts."""

from collections.abc import Callable

import pytest
import torch

from attacks.core.results import NothingFound
from attacks.text import _arrangements
from attacks.text._arrangements import arranged
from attacks.text._masked_places import spans_with_masks
from fedsim.core import seeding
from fedsim.core.masked_places import mask_token
from fedsim.core.types import Observation, Truth

Texts = Callable[[int], tuple[Observation, Truth]]


@pytest.mark.parametrize("most_tried", [50_000, 0])
def test_all_arrangements_and_descents_find_what_the_client_read(
    most_tried: int, masked_texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    observation, truth = masked_texts(2)
    monkeypatch.setattr(_arrangements, "_FEW", most_tried)
    mask = mask_token(observation.model)
    assert mask is not None
    true = truth.private[0].inputs.masked_fill(truth.draws[0]["task.masked"], mask)
    reading, tokens = spans_with_masks(observation)
    found = arranged(reading, tokens, 2, 20, seeding.generator(0, "attack"))
    assert sorted(found.tolist()) == sorted(true.tolist())
    wrong = [torch.tensor([(int(token[0]) + 7) % mask]) for token in tokens]
    with pytest.raises(NothingFound, match="no arrangement of the tokens"):
        arranged(reading, wrong, 2, 2, seeding.generator(0, "attack"))
