"""Steering vectors against their definition, and calibrated strengths against a search."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from fedsim.components.decoder._steering import (
    SteeredPlaces,
    concat_positions,
    places,
    steer_scores,
    steering_vector,
    strength_of,
    sure_tokens,
)
from tests.components.decoder.steered import MODES, random_scores


def jacobian(odds: Tensor) -> Tensor:
    return torch.diag(odds) - torch.outer(odds, odds)


def test_the_vector_is_the_jacobian_times_the_log_ratio_and_ignores_constants() -> None:
    for tuned, base in zip(*random_scores(20)[:2], strict=True):
        odds = tuned.softmax(-1)
        ratio = tuned.log_softmax(-1) - base.log_softmax(-1)
        own = steering_vector(tuned, base)
        torch.testing.assert_close(own, jacobian(odds) @ (ratio + 1), rtol=0, atol=1e-12)
        torch.testing.assert_close(own, jacobian(odds) @ (tuned - base + 17.0), rtol=0, atol=1e-12)
        divergence = kl_div(base.log_softmax(-1), tuned.log_softmax(-1), log_target=True, reduction="sum")
        torch.testing.assert_close(own, odds * (ratio - divergence), rtol=0, atol=1e-12)
        assert abs(float(own.sum())) < 1e-12
        torch.testing.assert_close(own, steering_vector(tuned + 3.0, base - 2.0), rtol=0, atol=1e-12)
    assert not steering_vector(tuned, tuned).any()


def test_tokens_that_a_model_never_writes_leave_the_vector_finite() -> None:
    tuned, base = torch.tensor([1.0, 0.0, -torch.inf]), torch.tensor([-torch.inf, 0.0, -torch.inf])
    own = steering_vector(tuned, base)
    assert own.isfinite().all()
    assert own[0] > 0 > own[1]
    assert own[2] == 0


def test_the_slope_of_the_divergence_at_strength_0_is_the_inner_product() -> None:
    tuned, base, _ = random_scores(10, seed=1)
    target = torch.randn(10, 50, generator=torch.Generator().manual_seed(2)).double().softmax(-1)
    delta = steering_vector(tuned, base)

    def divergence(strength: float) -> Tensor:
        return (target * (target.log() - (tuned + strength * delta).log_softmax(-1))).sum(-1)

    slopes = (divergence(1e-4) - divergence(-1e-4)) / 2e-4
    torch.testing.assert_close(slopes, ((tuned.softmax(-1) - target) * delta).sum(-1), rtol=1e-4, atol=1e-6)


def test_calibrated_strengths_do_what_they_promise() -> None:
    tuned, base, true = random_scores(1000, seed=5)
    own = places(tuned, base, true, 0.0, refuses=False)
    assert len(own.truth) == 1000
    torch.testing.assert_close(own.costs(0.0), cross_entropy(tuned, true, reduction="none"))
    delta = steering_vector(tuned, base)
    torch.testing.assert_close(own.costs(0.7), cross_entropy(tuned + 0.7 * delta, true, reduction="none"))
    each = own.descents() / own.deltas.square().sum(1)
    for place in range(1000):
        alone = part(own, place)
        assert strength_of(alone, "mean") == pytest.approx(float(each[place]))
        assert float(alone.costs(float(each[place]))) <= float(alone.costs(0.0)) + 1e-12
    total = {mode: float(own.costs(strength_of(own, mode)).sum()) for mode in MODES}
    plain = float(own.costs(0.0).sum())
    assert total["ratio"] <= plain
    assert all(total["search"] <= other + 1e-9 for other in (*total.values(), plain))
    assert strength_of(own, "mean") == pytest.approx(float(each.mean()))
    assert abs(own.slope(strength_of(own, "search"))) < 1e-9 * 1000
    curvature = torch.stack([d @ jacobian(s.softmax(-1)) @ d for d, s in zip(delta, tuned, strict=True)])
    torch.testing.assert_close(own.curvatures(), curvature)
    assert (own.deltas.square().sum(1) >= 2 * curvature - 1e-12).all()
    step = 1e-5
    second = (own.costs(step) - 2 * own.costs(0.0) + own.costs(-step)) / step**2
    torch.testing.assert_close(second, curvature, rtol=1e-2, atol=1e-4)
    same = concat_positions([part(own, place) for place in range(1000)])
    assert [strength_of(same, mode) for mode in MODES] == pytest.approx([strength_of(own, mode) for mode in MODES])


def part(own: SteeredPlaces, place: int) -> SteeredPlaces:
    some = slice(place, place + 1)
    return SteeredPlaces(own.scores[some], own.deltas[some], own.log_remainder[some], own.truth[some], own.odds[some])


@pytest.mark.parametrize("refuses", [True, False])
def test_the_mask_leaves_unsure_tokens_out_of_norms_and_search(refuses: bool) -> None:
    tuned, base, true = random_scores(300, seed=6)
    own = places(tuned, base, true, 0.1, refuses=refuses)
    is_sure = sure_tokens(tuned, 0.1)
    kept = is_sure.gather(1, true[:, None])[:, 0]
    assert 100 < len(own.truth) == int(kept.sum()) < 300
    delta = steering_vector(tuned, base).where(is_sure, 0.0)[kept]
    torch.testing.assert_close(own.deltas.square().sum(1), delta.square().sum(1))
    for strength in (0.0, 2.0, -2.0):
        moved = steer_scores(tuned, base, strength, 0.1, refuses=refuses)
        torch.testing.assert_close(own.costs(strength), cross_entropy(moved, true, reduction="none")[kept])
        odds = moved.softmax(-1)
        assert odds.isfinite().all()
        assert not refuses or not odds[~is_sure].any()
        assert torch.equal((moved == -torch.inf).any(-1), torch.full((300,), refuses))
    best = strength_of(own, "search")
    assert all(own.costs(best).sum() <= own.costs(best + more).sum() + 1e-9 for more in (-0.1, 0.1))


def test_one_gradient_step_on_free_scores_gives_the_vector_of_the_paper() -> None:
    _, base, _ = random_scores(1, seed=3)
    target = torch.randn(50, generator=torch.Generator().manual_seed(4)).double().softmax(-1)
    gap = target - base[0].softmax(-1)
    tuned = base[0] + 0.01 * gap
    delta = steering_vector(tuned, base[0])
    torch.testing.assert_close(delta, 0.01 * jacobian(tuned.softmax(-1)) @ gap)
    assert float((tuned.softmax(-1) - target) @ delta) < 0, "a small step along it helps"
