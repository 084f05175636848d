"""Odds of the next token, and that a judged draft is distributed as the target's own text."""

import pytest
import torch

from fedsim.components.decoder._odds import DrawConfig, finite, judge


def test_at_temperature_zero_all_odds_are_on_the_likeliest() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, -1.0]])
    assert DrawConfig().odds(scores).tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def test_a_temperature_divides_the_scores_and_top_p_cuts_behind_it() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0]])
    expected = (scores.double() / 0.5).softmax(-1)
    torch.testing.assert_close(DrawConfig(temperature=0.5).odds(scores), expected, rtol=0, atol=0)
    cut = DrawConfig(temperature=0.5, top_p=0.9).odds(scores)
    torch.testing.assert_close(cut, expected * torch.tensor([[0, 1, 1]]), rtol=0, atol=0)
    with pytest.raises(ValueError, match="top_p is 0.5, but at temperature 0 nothing is drawn"):
        DrawConfig(top_p=0.5)


def test_judged_tokens_follow_the_target_whatever_drafted_them() -> None:
    source = torch.Generator().manual_seed(4)
    p, q = torch.rand(3, generator=source).double(), torch.tensor([0.7, 0.1, 0.2]).double()
    bonus = torch.tensor([0.0, 0.0, 5.0]).double()
    counts, stood, draws = torch.zeros(3), 0, 4000
    for _ in range(draws):
        token = int(q.multinomial(1, generator=source))
        judged = judge([token], [2 * q], torch.stack([3 * p, bonus]), source)
        counts[judged[0]] += 1
        stood += len(judged) == 2
        assert judged[1:] in ([], [2]), "a draft that stood is followed by the target's next token"
    law = p / p.sum()
    assert torch.allclose(counts / draws, law.float(), atol=0.035)  # 4.4 standard errors of 1/2
    assert stood / draws == pytest.approx(float(torch.minimum(law, q).sum()), abs=0.035)


def test_a_draft_that_the_target_would_never_write_is_replaced() -> None:
    target = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double()
    source = torch.Generator().manual_seed(0)
    assert judge([0], [torch.tensor([1.0, 0.0]).double()], target, source) == [1]
    assert judge([1], [torch.tensor([0.5, 0.5]).double()], target, source) == [1, 0]
    assert judge([], [], target[:1], source) == [1]


def test_scores_are_cut_in_front_of_the_first_that_are_no_numbers() -> None:
    scores = torch.zeros(4, 2)
    assert len(finite(scores)) == 4
    scores[2, 1] = torch.nan
    assert len(finite(scores)) == 2
    scores[0] = -torch.inf
    assert len(finite(scores)) == 0
