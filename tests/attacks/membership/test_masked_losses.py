"""Losses at masked places: which places, the same for all texts, and the loss by hand."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from attacks.membership._masked_losses import fills_in_nothing, masked_places, token_losses
from tests.attacks.membership.masked import COUNT, LENGTH, log_odds, observed, weights


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.5, 3), (0.51, 4), (1.0, 6)])
def test_a_share_of_each_answer_is_masked_at_the_places_of_the_least_keys(share: float, count: int) -> None:
    keys = torch.tensor([0.6, 0.1, 0.5, 0.2, 0.4, 0.3])
    masked = masked_places(observed().candidates, share, keys)
    order = keys.argsort().tolist()
    assert all(sorted(order[:count]) == own.nonzero().flatten().tolist() for own in masked[1:])
    assert not masked[0, :2].any()  # the prompt
    assert int(masked[0].sum()) == max(1, -(-int(share * 400) // 100))  # of its four places


def test_losses_are_those_of_the_odds_at_every_place() -> None:
    seen = observed()
    masked = torch.rand(COUNT, LENGTH, generator=torch.Generator().manual_seed(1)) < 0.5
    found = token_losses(seen, weights(3), masked)
    for row in range(COUNT):
        own = log_odds(weights(3), masked[row])
        expected = [-float(own[place, seen.candidates.inputs[row, place]]) for place in range(LENGTH)]
        assert found[row].tolist() == pytest.approx(expected, rel=1e-6)


def test_a_model_without_a_mask_token_is_named() -> None:
    assert fills_in_nothing(observed()) is None
    assert "no mask token" in str(fills_in_nothing(replace(observed(), model=nn.Linear(2, 2))))
