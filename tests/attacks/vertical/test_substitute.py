"""A substitute that is aligned with what is sent inverts it; where nothing is sent it says nothing."""

import pytest
import torch

from attacks.vertical._decoding import mismatch
from fedsim.questions.vertical.observe import features_view
from tests.attacks.vertical.column_seats import EVERYTHING, guessed, seat
from tests.questions.vertical.splitting import split_federation

QUICK = {"epochs": 40}


@pytest.mark.paper_step("substitute", "substitute bottom aligned with the party's features")
@pytest.mark.paper_step("substitute", "decoder trained on the substitute")
@pytest.mark.slow
def test_it_explains_columns_and_of_a_party_with_no_input_nothing() -> None:
    federation = split_federation(classes=4, columns=8, width=16, activation="leaky-relu")
    view, originals = seat(federation, "substitute")
    of_mean = (view.public.mean(0) - originals).square().sum()
    assert float((guessed("substitute", view, **QUICK) - originals).square().sum()) < 0.6 * float(of_mean)
    run = federation.run("input zero", party="a")
    blind = features_view(federation, run, "a", 1, "embeddings", EVERYTHING, (200, 1))
    guesses = guessed("substitute", blind, **QUICK)
    assert (
        float(guesses.std(0).max()) < 0.2
    )  # of originals 1: only the bottom's bias was sent, which moves in the epoch
    assert float((guesses - originals).square().sum()) > 0.9 * float(of_mean)


def test_the_discrepancy_of_one_law_is_small_and_of_two_is_not() -> None:
    source = torch.Generator().manual_seed(0)
    one, same, other = (torch.randn(200, 4, generator=source).double() for _ in range(3))
    assert float(mismatch(one, same)) < 0.1 * float(mismatch(one, other + 2))
