"""DP-FedAvg: sensitivity, noise, adaptive clipping, what its guarantee says, and the defects of Flower's own."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.supercore.differential_privacy import clip_inputs_inplace, compute_clip_model_update, compute_stdv
from pydantic import ValidationError

from fedsim.core.hooks import ServerRound
from fedsim.privacy.accounting import Spent, epsilon
from fedsim.scenario import world as worlds
from tests.federating import recorded


def here(size: int = 3, expected: float = 10.0, seed: int = 0) -> ServerRound:
    return ServerRound(1, torch.Generator().manual_seed(seed), expected, size)


@pytest.mark.paper_step("dp-fedavg", "updates clipped, summed and divided by the expected cohort")
def test_updates_are_clipped_and_divided_by_the_expected_cohort_and_count_the_same(rule, contributions) -> None:
    vectors = torch.tensor([[3.0, 4.0, 0.0], [0.3, 0.0, 0.4], [0.0, 0.0, 0.0]])
    given = contributions(vectors, [100, 1, 50])
    found = rule("dp-fedavg", clip=1.0, noise_multiplier=0.0).combine(given, here())
    assert torch.allclose(found, (vectors[0] / 5 + vectors[1]) / 10)


def test_one_client_moves_the_sum_by_the_clipping_norm_at_most(rule, contributions) -> None:
    vectors = 100 * torch.randn(12, 50, generator=torch.Generator().manual_seed(1))
    private = rule("dp-fedavg", clip=0.5, noise_multiplier=1.0)
    whole = private.combine(contributions(vectors), here(50))
    moved = [
        float(torch.dist(whole, private.combine(contributions(vectors[torch.arange(12) != c]), here(50))))
        for c in range(12)
    ]
    assert max(moved) <= 0.5 / 10 * (1 + 1e-5)
    assert max(moved) > 0.499 / 10


@pytest.mark.paper_step("dp-fedavg", "Gaussian noise on the sum")
def test_noise_has_the_stated_scale_differs_by_round_and_comes_without_updates_too(rule) -> None:
    private = rule("dp-fedavg", clip=0.5, noise_multiplier=3.0)
    first, second = (private.combine([], here(50_000, seed=seed)) for seed in (1, 2))
    assert first.shape == (50_000,)
    assert float(first.std()) == pytest.approx(3.0 * 0.5 / 10, rel=0.02)
    assert float(torch.dist(first, second)) > 1.0
    assert private.acts_without_updates


def test_zero_and_unusable_vectors_add_nothing(rule, contributions) -> None:
    vectors = torch.tensor([[torch.nan, 1.0, 1.0], [0.0, 0.0, 0.0], [torch.inf, 0.0, 0.0]])
    found = rule("dp-fedavg", noise_multiplier=0.0).combine(contributions(vectors), here())
    assert torch.equal(found, torch.zeros(3))
    large = torch.full((1, 3), 1e30)
    clipped = rule("dp-fedavg", noise_multiplier=0.0).combine(contributions(large), here(expected=1.0))
    assert float(clipped.norm()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("start", "quantile"),
    [  # each start and each quantile once, and slowly together
        (0.01, 0.2),
        (100.0, 0.9),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((0.01, 0.5), (100.0, 0.5), (0.01, 0.9), (100.0, 0.2))
        ),
    ],
)
def test_the_clipping_norm_follows_the_quantile(rule, contributions, start, quantile) -> None:
    norms = torch.linspace(1.0, 3.0, 101)
    private = rule("dp-fedavg", clip=start, noise_multiplier=0.0, quantile=quantile)
    for _ in range(300):
        private.combine(contributions(norms.unsqueeze(1)), here(1, expected=101.0))
    assert private.clip == pytest.approx(1.0 + 2.0 * quantile, rel=0.05)


def test_without_a_quantile_the_clipping_norm_stays(rule, contributions) -> None:
    private = rule("dp-fedavg", clip=2.0)
    private.combine(contributions(torch.ones(5, 3)), here())
    assert private.clip == 2.0


def test_one_step_of_the_clipping_norm_is_the_equation(rule, contributions) -> None:
    vectors = torch.tensor([[0.5], [0.7], [3.0], [5.0]])
    private = rule("dp-fedavg", clip=1.0, noise_multiplier=0.0, quantile=0.5, clip_rate=0.2)
    private.combine(contributions(vectors), here(1, expected=4.0))
    assert private.clip == pytest.approx(math.exp(-0.2 * (2 / 4 - 0.5)))
    private.combine(contributions(vectors[:2]), here(1, expected=4.0))  # two absent ones: their bits count a half
    assert private.clip == pytest.approx(math.exp(-0.2 * (3 / 4 - 0.5)))


def test_what_the_count_takes_the_sum_gives_up(rule) -> None:
    """Both releases together cost what one with the stated multiplier would: mu^2 adds up."""
    z, sigma_b = 1.0, 2.0
    private = rule("dp-fedavg", clip=1.0, noise_multiplier=z, quantile=0.5, count_noise=sigma_b)
    on_updates = float(private.combine([], here(200_000, expected=1.0)).std())
    assert on_updates**-2 + (2 * sigma_b) ** -2 == pytest.approx(z**-2, rel=0.01)
    assert on_updates > z
    large = rule("dp-fedavg", clip=1.0, noise_multiplier=z, quantile=0.5)
    assert float(large.combine([], here(200_000, expected=200.0)).std()) * 200 == pytest.approx(1.001, rel=0.01)


def test_a_count_that_would_cost_more_than_the_whole_is_refused(rule) -> None:
    with pytest.raises(ValidationError, match="above noise_multiplier / 2"):
        rule("dp-fedavg", noise_multiplier=2.0, quantile=0.5, count_noise=1.0)


@pytest.mark.paper_step("dp-fedavg", "accountant over rounds")
def test_a_sampled_client_is_added_or_removed_and_one_of_a_fixed_cohort_replaced(scenario) -> None:
    aggregation = {"name": "dp-fedavg", "noise_multiplier": 2.0}
    participation = {"sampling": "poisson", "cohort": 2}
    sampled = worlds.build(scenario(aggregation=aggregation, participation=participation)).facts.server_mechanism
    fixed = worlds.build(scenario(aggregation=aggregation, participation={"cohort": 2})).facts.server_mechanism
    assert sampled is not None
    assert fixed is not None
    assert (sampled.adjacency, sampled.noise_multiplier, sampled.sampling_rate) == ("add-or-remove", 2.0, 0.5)
    assert (fixed.adjacency, fixed.noise_multiplier, fixed.sampling_rate) == ("replace", 1.0, 1.0)
    assert sampled.unit == fixed.unit == "client"
    assert "not against the server" in sampled.adversary


def test_no_noise_is_no_guarantee(scenario) -> None:
    aggregation = {"name": "dp-fedavg", "noise_multiplier": 0.0}
    assert worlds.build(scenario(aggregation=aggregation)).facts.server_mechanism is None


@pytest.mark.slow
def test_the_record_composes_the_whole_run_where_clients_are_sampled(scenario, tmp_path: Path) -> None:
    tables = {
        "federation": {"rounds": 4},
        "participation": {"sampling": "poisson", "cohort": 2},
        "aggregation": {"name": "dp-fedavg", "noise_multiplier": 2.0},
        "attacks": [],
    }
    arm = recorded(scenario(**tables), tmp_path).arms[0]
    (found,) = arm.guarantees
    assert found.epsilon == epsilon([Spent(2.0, 0.5, 4)], 1e-5).value
    assert (found.source, found.steps) == ("dp-fedavg", 4)
    assert "those of the whole run" in found.composition


def test_scalars_escape_flowers_clipping_and_not_ours(rule, contributions) -> None:
    trained, received = [np.array(100.0)], [np.array(0.0)]
    compute_clip_model_update(trained, received, 1.0)
    assert float(trained[0]) == 100.0
    given = contributions(torch.tensor([[100.0]]))
    ours = rule("dp-fedavg", clip=1.0, noise_multiplier=0.0).combine(given, here(1, expected=1.0))
    assert float(ours) == 1.0


def test_unchanged_weights_break_flowers_clipping_and_not_ours(rule, contributions) -> None:
    with pytest.raises(ZeroDivisionError):
        clip_inputs_inplace([np.zeros(3)], 1.0)
    ours = rule("dp-fedavg", noise_multiplier=0.0).combine(contributions(torch.zeros(1, 3)), here())
    assert torch.equal(ours, torch.zeros(3))


def test_not_a_number_passes_flowers_clipping_and_not_ours(rule, contributions) -> None:
    update = [np.array([np.nan, 1.0])]
    clip_inputs_inplace(update, 1.0)
    assert np.isnan(update[0]).any()
    ours = rule("dp-fedavg", noise_multiplier=0.0).combine(contributions(torch.tensor([[torch.nan, 1.0]])), here(2))
    assert torch.equal(ours, torch.zeros(2))


def test_flowers_noise_follows_who_answered_and_ours_who_was_expected(rule, contributions) -> None:
    """Divided by who answered, the noise falls and the mean's sensitivity depends on the data's owners."""
    assert compute_stdv(1.0, 1.0, 5) == 2 * compute_stdv(1.0, 1.0, 10)
    few, many = (
        rule("dp-fedavg").combine(contributions(torch.zeros(count, 20_000)), here(20_000)) for count in (5, 10)
    )
    assert torch.equal(few, many)
