"""Speculation over numbers: exact where the rule is, biased where the sheet says so, beside densities on a grid."""

import math

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from fedsim.components.sampler._speculation import LastStep, Reverse, Rule, last_step, log_ratio, residual
from tests.components.sampler.exact_head import learned

LEVELS = 3


def head(shift: float, stds: tuple[float, ...]) -> Reverse:
    """Means that lean towards a shift, and a deviation for each level from 1 up."""

    def reverse(x: Tensor, level: int) -> tuple[Tensor, Tensor]:
        return 0.6 * x + shift * level, torch.full_like(x, stds[level - 1])

    return reverse


TARGET, DRAFT = head(0.3, (0.7, 0.5, 0.6)), head(0.2, (0.9, 0.6, 0.5))


def speculated(
    target: Reverse,
    draft: Reverse,
    count: int,
    size: int,
    rule: Rule = "exact",
    *,
    is_aligned: bool = True,
    levels: int = LEVELS,
) -> tuple[Tensor, float]:
    """One patch of each row, and the share of drafts that stood."""
    source = torch.Generator().manual_seed(0)

    def normal() -> Tensor:
        return torch.randn(levels, count, size, generator=source, dtype=torch.double)

    noise = normal()
    guess = last_step(draft, noise, levels)
    truth = last_step(target, noise if is_aligned else normal(), levels)
    x = guess.mean + guess.std * normal()[0]
    falls = torch.rand(count, generator=source, dtype=torch.double).log() >= log_ratio(x, truth, guess, rule)
    left = [LastStep(own.mean[falls], own.std[falls], own.log_spread[falls]) for own in (truth, guess)]
    x[falls] = residual(left[0], left[1], source, rule)[0]
    return x, float(1 - falls.double().mean())


def drawn(target: Reverse, count: int, size: int, levels: int) -> Tensor:
    source = torch.Generator().manual_seed(9)
    noise = torch.randn(levels + 1, count, size, generator=source, dtype=torch.double)
    own = last_step(target, noise[:-1], levels)
    return own.mean + own.std * noise[-1]


@pytest.mark.parametrize("is_aligned", [True, False])
def test_the_exact_rule_has_the_law_of_the_target(is_aligned: bool) -> None:
    count = 200_000
    found, _ = speculated(TARGET, DRAFT, count, 1, is_aligned=is_aligned)
    # The target's law by hand: x_T ~ N(0, 1), then x <- 0.6 x + 0.3 t + s_t e three times.
    mean, variance = 0.0, 1.0
    for level, std in ((3, 0.6), (2, 0.5), (1, 0.7)):
        mean, variance = 0.6 * mean + 0.3 * level, 0.36 * variance + std**2
    distance = kstest(found[:, 0].numpy(), "norm", args=(mean, math.sqrt(variance))).statistic
    assert distance < 1.63 / math.sqrt(count)  # Kolmogorov's law: 1 in 100


@pytest.mark.slow
def test_the_rule_of_the_paper_is_exact_for_equal_variances_and_biased_for_others() -> None:
    count, levels = 20_000, 6
    target, same, narrow = (head(own, (std,) * levels) for own, std in ((0.1, 0.6), (0.08, 0.6), (0.08, 0.558)))
    truth = drawn(target, count, 4, levels).std()
    fair, _ = speculated(target, same, count, 4, "paper", levels=levels)
    biased, chance = speculated(target, narrow, count, 4, "paper", levels=levels)
    exact, better = speculated(target, narrow, count, 4, levels=levels)
    error = 3 * float(truth) / math.sqrt(2 * 4 * count)  # three standard errors of a deviation
    assert abs(float(fair.std() - truth)) < 2 * error
    assert abs(float(exact.std() - truth)) < 2 * error
    # Seven per cent in five steps of four numbers make the factor 0.93^20 = 0.23.
    assert abs(float(biased.std() - truth)) > 0.02 * float(truth)
    assert chance < 0.5 * better


def reverse_of(variance: float) -> Reverse:
    """The steps of a head with learned variances that knows the law of its numbers."""
    own = learned(variance)
    return lambda x, level: own.reverse(x, level, x.new_zeros(len(x), 1))


def squares_by_the_rule_of_the_paper(target: Reverse, draft: Reverse, levels: int, count: int) -> Tensor:
    """E x^2 given each of as many draws of shared noise: of what stands and what is drawn for the rest, on a grid."""
    noise = torch.randn(levels, count, 1, generator=torch.Generator().manual_seed(5), dtype=torch.double)
    truth, guess = (last_step(reverse, noise, levels) for reverse in (target, draft))
    grid, width = torch.linspace(-8, 8, 1601, dtype=torch.double), 0.01
    p, q = (
        torch.exp(-0.5 * ((grid - own.mean) / own.std).square()) / own.std / math.sqrt(2 * math.pi)
        for own in (truth, guess)
    )
    scaled = (guess.log_spread - truth.log_spread).exp()[:, None] * p
    standing, more = torch.minimum(q, scaled) * width, (scaled - q).clamp_min(0)
    fallen = 1 - standing.sum(1, keepdim=True)
    return ((standing + fallen * more / more.sum(1, keepdim=True)) * grid.square()).sum(1)


@pytest.mark.paper_step(
    "continuous-speculative", "the paper's factor for all variances, which differ if variances are learned"
)
def test_with_learned_variances_the_rule_of_the_paper_has_the_bias_of_its_law_and_the_exact_one_none() -> None:
    levels, count = 6, 100_000
    target, draft = reverse_of(0.8), reverse_of(0.4)
    exact, better = speculated(target, draft, count, 1, levels=levels)
    paper, chance = speculated(target, draft, count, 1, "paper", levels=levels)
    law = squares_by_the_rule_of_the_paper(target, draft, levels, 5000)
    fair, biased = exact.square(), paper.square()
    errors = [float(values.std()) / math.sqrt(len(values)) for values in (fair, biased, law)]
    # Four standard errors. The model's mean square is 0.8, since its variances are those of the posterior.
    assert abs(float(fair.mean()) - 0.8) < 4 * errors[0]
    assert abs(float(biased.mean() - law.mean())) < 4 * math.hypot(errors[1], errors[2])
    assert float(biased.mean()) - 0.8 > 0.05, "six per cent: far beyond these errors"
    assert chance < better


def test_as_many_drafts_stand_as_the_two_laws_overlap() -> None:
    count = 40_000
    source = torch.Generator().manual_seed(0)
    noise = torch.randn(LEVELS, count, 1, generator=source, dtype=torch.double)
    truth, guess = last_step(TARGET, noise, LEVELS), last_step(DRAFT, noise, LEVELS)
    grid = torch.linspace(-6, 6, 1201, dtype=torch.double)
    overlap = torch.zeros(2000, dtype=torch.double)
    for row in range(2000):
        densities = [
            torch.exp(-0.5 * ((grid - own.mean[row]) / own.std[row]) ** 2) / own.std[row] / math.sqrt(2 * math.pi)
            for own in (truth, guess)
        ]
        overlap[row] = torch.minimum(*densities).sum() * 0.01
    _, chance = speculated(TARGET, DRAFT, count, 1)
    error = 3 * math.sqrt(0.25 / count + float(overlap.var()) / 2000)
    assert abs(chance - float(overlap.mean())) < error


def test_the_residual_is_what_the_target_has_more_of_and_takes_one_over_that_many_tries() -> None:
    count = 60_000
    shape = (count, 1)
    target = LastStep(torch.zeros(shape).double(), torch.ones(shape).double(), torch.zeros(count).double())
    draft = LastStep(target.mean + 0.8, 1.2 * target.std, target.log_spread)
    found, tries = residual(target, draft, torch.Generator().manual_seed(1))
    grid = torch.linspace(-5, 5, 1001, dtype=torch.double)
    p = torch.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    q = torch.exp(-(((grid - 0.8) / 1.2) ** 2) / 2) / 1.2 / math.sqrt(2 * math.pi)
    more = (p - q).clamp_min(0)
    total = float(more.sum() * 0.01)
    law = (more / more.sum()).cumsum(0)
    empirical = torch.searchsorted(found[:, 0].sort().values, grid + 0.005) / count
    assert float((empirical - law).abs().max()) < 1.63 / math.sqrt(count) + 2e-3  # and the grid's own width
    assert float(tries.double().mean()) == pytest.approx(1 / total, rel=3 / math.sqrt(count * total))


def test_a_residual_that_is_empty_ends_as_a_draw_of_the_target() -> None:
    same = LastStep(torch.full((2, 1), 5.0), torch.full((2, 1), 1e-3), torch.zeros(2))
    found, tries = residual(same, same, torch.Generator().manual_seed(0))
    assert tries.tolist() == [1000, 1000]
    torch.testing.assert_close(found, same.mean, rtol=0, atol=0.01)
