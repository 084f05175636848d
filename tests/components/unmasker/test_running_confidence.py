"""Running confidence: what is taken back and why, against a table by hand, and the schedule of places."""

import pytest
import torch
from torch import Tensor, nn

from tests.components.unmasking import Fixed, run


class Changing(nn.Module):
    """Three places of two tokens and a mask, whose odds depend on what is shown."""

    mask_token = 2

    def __init__(self, odds: dict[tuple[int, ...], list[float]]) -> None:
        super().__init__()
        self.odds = odds

    def forward(self, tokens: Tensor) -> Tensor:
        ones = torch.tensor([self.odds[tuple(text)] for text in tokens.tolist()], dtype=torch.double)
        return torch.stack((1 - ones, ones, torch.zeros_like(ones)), -1).log()


@pytest.mark.paper_step("running-confidence", "places with the least running confidence are masked again")
def test_an_early_token_is_taken_back_where_another_is_surer() -> None:
    # Odds of token 1 at each place. Step 1 guesses 1 0 1 and keeps place 0 (0.7). Shown that, places 1 and 2 are surer
    # (0.9 and 0.8), so that of three the least sure is place 0: it is masked again, and proposed anew as 0.
    odds = {(2, 2, 2): [0.7, 0.4, 0.6], (1, 2, 2): [0.5, 0.9, 0.2], (2, 1, 0): [0.1, 0.5, 0.5]}
    (found,) = run("running-confidence", Changing(odds), [[]], 3)
    assert found.tokens == (0, 1, 0)
    assert found.trace.series()["remasked"] == (0, 1, 0)
    assert found.trace.tokens == (0, 0, 3), "guesses are written where the block ends"
    (fixed,) = run("fixed", Changing({**odds, (1, 1, 2): [0.5, 0.5, 0.5]}), [[]], 3)
    assert fixed.tokens[0] == 1, "which a fixed schedule keeps"


@pytest.mark.parametrize(("places", "steps"), [(8, 3), (8, 8), (6, 4), (4, 7)])
def test_behind_each_step_as_many_places_are_masked_as_the_schedule_says(places: int, steps: int) -> None:
    masked: list[int] = []

    class Watched(Fixed):
        def forward(self, tokens: Tensor) -> Tensor:
            masked.append(int((tokens == self.mask_token).sum()))
            return super().forward(tokens)

    odds = torch.rand(places, 3, generator=torch.Generator().manual_seed(0)).softmax(-1).log()
    (found,) = run("running-confidence", Watched(odds), [[]], places, steps=steps)
    assert masked == [int(places * (1 - step / steps) + 1e-9) for step in range(steps)]
    assert found.tokens == tuple(odds.argmax(-1).tolist()), "what depends on nothing is not changed"
    assert sum(found.trace.series()["remasked"]) == 0
