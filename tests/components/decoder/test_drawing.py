"""The nucleus against a search through all sets, and draws against the distribution that they come from."""

import itertools

import pytest
import torch

from fedsim.components.decoder._drawing import draw, nucleus


def sources(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in range(count)]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.7, 0.95, 1.0])
def test_the_nucleus_is_the_smallest_set_that_holds_the_share(share: float) -> None:
    odds = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)).double().softmax(-1)
    found = nucleus(odds, share)
    for row, kept in zip(odds, found, strict=True):
        sets = (combination for size in range(1, 6) for combination in itertools.combinations(range(5), size))
        enough = [own for own in sets if float(row[[*own]].sum()) >= share - 1e-12]
        size = min(map(len, enough))
        best = max((own for own in enough if len(own) == size), key=lambda own: float(row[[*own]].sum()))
        assert kept.nonzero().flatten().tolist() == sorted(best)
        assert torch.equal(kept[[*best]], row[[*best]])


def test_of_equal_tokens_the_first_are_kept() -> None:
    assert nucleus(torch.full((1, 4), 0.25), 0.5).tolist() == [[0.25, 0.25, 0.0, 0.0]]


def test_draws_follow_odds_up_to_a_factor_and_never_what_has_none() -> None:
    odds = torch.tensor([[0.0, 2.0, 0.0, 6.0, 0.0]]).double().repeat(4000, 1)
    found = torch.tensor(draw(odds, sources(4000)))
    assert set(found.tolist()) == {1, 3}
    assert float((found == 3).double().mean()) == pytest.approx(0.75, abs=0.03)  # 4 standard errors


def test_a_row_takes_one_number_of_its_own_generator() -> None:
    odds = torch.rand(3, 7, generator=torch.Generator().manual_seed(2)).double()
    alone = [draw(odds[row : row + 1], [source])[0] for row, source in enumerate(sources(3))]
    used = sources(3)
    assert draw(odds, used) == alone
    expected = sources(3)
    for own, other in zip(used, expected, strict=True):
        uniform = torch.rand(1, generator=other, dtype=torch.double)
        assert torch.equal(torch.rand(1, generator=own), torch.rand(1, generator=other))
        assert 0 <= float(uniform) < 1


def test_rounding_at_the_upper_end_draws_the_last_token_that_has_odds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.ones(1, dtype=torch.double))
    assert draw(torch.tensor([[0.5, 0.5, 0.0]]).double(), sources(1)) == [1]
