"""Which models fill in masked places."""

import torch
from torch import nn

from fedsim.core.nets.masked_positions import exclude_mask_token, mask_token, scoring_places
from tests.components.generating import tiny_llama
from tests.components.unmasking import tiny_llada


def test_a_model_that_fills_in_places_names_its_token_and_any_other_none() -> None:
    own = tiny_llada()
    assert mask_token(own) == own.mask_token
    assert mask_token(tiny_llama()) is None
    odd = nn.Identity()
    odd.mask_token = nn.Linear(1, 1)
    assert mask_token(odd) is None


def test_the_mask_alone_is_never_scored_whatever_is_numbered_behind_it() -> None:
    scores = torch.arange(10.0).view(2, 5)
    assert torch.equal(exclude_mask_token(scores, 5), scores), "the model does not score it"
    assert exclude_mask_token(scores, 3).tolist() == [[0, 1, 2, -torch.inf, 4], [5, 6, 7, -torch.inf, 9]]
    assert scores[0, 3] == 3, "the scores of the model stay as they are"


def test_a_shifted_model_scores_a_place_at_the_one_before() -> None:
    model = nn.Linear(1, 1)
    assert scoring_places(model, (0, 3, 4)) == {0, 3, 4}
    model.is_shifted = True  # type: ignore[assignment]
    assert scoring_places(model, (0, 3, 4)) == {0, 2, 3}
