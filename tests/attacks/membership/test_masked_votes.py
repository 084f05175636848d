"""Votes of masks: their weights, their sign, and that outliers of a token do not move them."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from attacks.membership.masked_votes import _votes
from fedsim.core import seeding
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.types import MembershipObservation
from tests.attacks.membership.linear import Make
from tests.attacks.membership.masked import COUNT, LENGTH, log_odds, observed, weights


def scored(attack: MembershipAttack[Any], seen: MembershipObservation) -> torch.Tensor:
    return attack(seen, seeding.generator(1, "score"))


def test_sets_of_all_places_vote_by_the_sign_of_the_mean_gain_and_sparse_masks_count_more(attack_of: Make) -> None:
    # One mask of one place, so that every set is that place, and one of two places, of which a set has one.
    attack = attack_of("masked-votes", masks=2, sparsest=1 / 6, densest=1 / 3, sets=64, shadows=2)
    seen = observed(attack.plan())
    generator = seeding.generator(1, "score")
    first = int(torch.rand(LENGTH, generator=generator).argmin())
    masked = torch.zeros(LENGTH).bool()
    masked[first] = True
    for row in range(1, COUNT):
        token = seen.candidates.inputs[row, first]
        own, *others = (-float(log_odds(weights(n), masked)[first, token]) for n in (1, 10, 11))
        vote = float(sum(others) / 2 > own)
        score = float(scored(attack, seen)[row])
        # weights 6 and 3: the first mask has two thirds of the score, the second adds at most a third
        assert 2 / 3 * vote - 1e-9 <= score <= 2 / 3 * vote + 1 / 3 + 1e-9


def test_a_single_token_of_enormous_loss_does_not_decide() -> None:
    gain = torch.full((1, 12), 0.1)
    gain[0, 0] = -1000.0
    masked = torch.ones(1, 12).bool()
    assert float((gain * masked).mean()) < 0
    share = float(_votes(gain, masked, 400, 1, torch.Generator().manual_seed(0)))
    assert share == pytest.approx(11 / 12, abs=4 * (11 / 144 / 400) ** 0.5)  # four standard errors


def test_two_models_that_are_one_never_vote_for_a_member(attack_of: Make) -> None:
    attack = attack_of("masked-votes", shadows=2)
    plan = attack.plan()
    assert plan is not None
    seen = observed(plan)
    same = tuple(replace(shadow, weights=weights(1)) for shadow in seen.shadows[plan])
    assert not scored(attack, replace(seen, shadows={plan: same})).any()
