"""Epsilon against reference values, a second library, and closed forms."""

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.stats import norm

from fedsim.core.errors import FedsimError
from fedsim.core.types import Mechanism
from fedsim.privacy.accounting import (
    ORDERS,
    Spent,
    compose_rounds,
    epsilon,
    gaussian_delta,
    gaussian_epsilon,
    guarantee,
    noise_multiplier,
    rdp,
    rdp_epsilon,
)

# (q, sigma, steps, delta) -> epsilon of the RDP accountant with fractional orders
REFERENCE = {
    (1.0, 1.0, 1, 1e-5): 4.73,
    (1.0, 4.0, 1, 1e-5): 1.013,
    (1.0, 4.0, 100, 1e-5): 14.13,
    (0.01, 1.0, 1000, 1e-5): 2.101,
    (0.01, 1.1, 10000, 1e-5): 5.632,
    (256 / 60000, 1.1, 14100, 1e-5): 2.600,
    (0.1, 1.0, 100, 1e-3): 5.641,
}


def steps(q: float, sigma: float, number: int) -> list[Spent]:
    return [Spent(sigma, q, number)]


def second_opinion(spent: list[Spent], delta: float) -> float:
    """Return what Google's accountant says, which discretises the privacy loss pessimistically."""
    accountant = PLDAccountant()
    for part in spent:
        noisy = dp_accounting.GaussianDpEvent(part.noise_multiplier)
        accountant.compose(dp_accounting.PoissonSampledDpEvent(part.sampling_rate, noisy), part.steps)
    return accountant.get_epsilon(delta)


@pytest.mark.paper_step("dp-sgd", "accountant of the subsampled Gaussian mechanism")
@pytest.mark.parametrize(("setting", "expected"), REFERENCE.items())
def test_rdp_gives_the_reference_values_and_the_reported_figure_is_tighter(setting, expected) -> None:
    q, sigma, number, delta = setting
    found = epsilon(steps(q, sigma, number), delta)
    assert found.rdp == pytest.approx(expected, rel=0.01)
    assert 0.6 * found.rdp < found.value <= found.rdp
    assert found.accountant == ("exact" if q == 1 else "PRV")


def test_one_order_of_the_divergence_has_its_reference_value() -> None:
    assert rdp(steps(0.01, 1.0, 1), 8.0) == pytest.approx(8.93644e-4, rel=1e-5)
    assert rdp(steps(1.0, 2.0, 3), 2.5) == pytest.approx(3 * 2.5 / (2 * 4), rel=1e-9)


@pytest.mark.parametrize("setting", REFERENCE)
def test_integer_orders_alone_are_slightly_larger_and_never_smaller(setting) -> None:
    q, sigma, number, delta = setting
    spent = steps(q, sigma, number)
    whole = (*map(float, range(2, 65)), 128.0, 256.0, 512.0)
    coarse = min(rdp(spent, a) + math.log1p(-1 / a) - (math.log(delta) + math.log(a)) / (a - 1) for a in whole)
    assert rdp_epsilon(spent, delta) <= coarse <= 1.006 * rdp_epsilon(spent, delta)
    assert any(order % 1 for order in ORDERS)


# Where the Renyi bound is far above (50 times), the error that PRV is allowed by it is too, until it is asked again.
FAR_BELOW_RENYI = (1e-4, 0.5, 10, 1e-5)


@pytest.mark.parametrize(
    "setting",
    [next(iter(REFERENCE)), (0.2, 30.0, 1, 1e-5), FAR_BELOW_RENYI],
)
def test_a_second_library_agrees_and_never_finds_more(setting) -> None:
    q, sigma, number, delta = setting
    spent = steps(q, sigma, number)
    other, found = second_opinion(spent, delta), epsilon(spent, delta).value
    assert other - 1e-6 <= found <= 1.01 * other + 1.5e-3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_second_library_agrees_on_200_random_settings() -> None:
    """Both are upper bounds: ours may be above by its stated error, and below by theirs."""
    source = np.random.default_rng(0)
    departs: list[tuple[float, ...]] = []
    for number in range(200):
        q = 1.0 if number % 5 == 0 else float(np.exp(source.uniform(np.log(1e-3), np.log(0.5))))
        sigma, count = float(source.uniform(0.6, 8.0)), int(np.exp(source.uniform(0.0, np.log(1000))))
        delta = float(10 ** source.uniform(-7, -3))
        spent = steps(q, sigma, count)
        other, ours = second_opinion(spent, delta), epsilon(spent, delta).value
        if not 0.99 * other - 1.5e-3 <= ours <= 1.01 * other + 1.5e-3:
            departs.append((q, sigma, count, delta, ours, other))
    assert not departs


def test_several_kinds_of_steps_are_composed_together() -> None:
    mixed = [Spent(1.0, 0.01, 100), Spent(2.0, 0.02, 50)]
    assert epsilon(mixed, 1e-5).value == pytest.approx(second_opinion(mixed, 1e-5), rel=0.02)
    split = [Spent(1.0, 0.01, 40), Spent(2.0, 0.02, 50), Spent(1.0, 0.01, 60)]
    assert epsilon(split, 1e-5) == epsilon(mixed, 1e-5)
    unsampled = [Spent(1.0, 0.01, 100), Spent(2.0, 1.0, 5)]
    found = epsilon(unsampled, 1e-5)
    assert found.accountant == "RDP"
    assert second_opinion(unsampled, 1e-5) <= found.value


@settings(deadline=None, max_examples=2)
@given(st.floats(0.01, 1.0), st.floats(0.7, 5.0), st.integers(1, 50), st.sampled_from([1e-3, 1e-5]))
def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise(q, sigma, number, delta) -> None:
    found = epsilon(steps(q, sigma, number), delta)
    slack = 1e-3 + 0.01 * found.rdp
    assert found.value <= found.rdp
    assert epsilon(steps(q, sigma, 2 * number), delta).value >= found.value - slack
    assert epsilon(steps(q / 2, sigma, number), delta).value <= found.value + slack
    assert epsilon(steps(q, 1.5 * sigma, number), delta).value <= found.value + slack


@pytest.mark.paper_step("local-dp", "epsilon of the Gaussian mechanism without slack")
@given(st.floats(0.01, 20.0), st.floats(0.0, 20.0))
def test_the_exact_delta_is_the_formula_and_epsilon_its_inverse(mu, eps) -> None:
    plain = norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * norm.cdf(-mu / 2 - eps / mu)
    delta = gaussian_delta(mu, eps)
    assert delta == pytest.approx(plain, rel=1e-6, abs=1e-9)
    if 1e-12 < delta < 0.5 and eps > 1e-6:
        assert gaussian_epsilon(mu, delta) == pytest.approx(eps, rel=1e-6, abs=1e-8)


def test_no_noise_costs_everything_and_no_step_nothing() -> None:
    assert epsilon(steps(0.1, 0.0, 1), 1e-5).value == math.inf
    assert epsilon([], 1e-5).value == epsilon(steps(0.1, 1.0, 0), 1e-5).value == 0.0
    assert epsilon(steps(0.01, 1000.0, 1), 1e-5).value < 0.01
    assert math.isfinite(epsilon(steps(0.5, 0.02, 10), 1e-5).value)
    assert epsilon(steps(0.01, 1.0, 10), 1e-12).accountant == "RDP"


@pytest.mark.parametrize(
    ("target", "delta", "q", "number"),
    [
        (1.0, 1e-5, 1.0, 10),
        pytest.param(3.0, 1e-5, 0.01, 1000, marks=pytest.mark.slow),
        (0.05, 1e-5, 0.1, 10),
        pytest.param(0.0405, 1e-5, 1e-4, 10, marks=pytest.mark.slow),
    ],
)
def test_calibrated_noise_spends_the_target_and_no_more(target, delta, q, number) -> None:
    sigma = noise_multiplier(target, delta, q, number)
    assert 0.98 * target <= epsilon(steps(q, sigma, number), delta).value <= target
    assert epsilon(steps(q, 0.95 * sigma, number), delta).value > target


@pytest.mark.parametrize(("rate", "number"), [(0.1, 0), (1.0, 0), (0.0, 10)])
@pytest.mark.parametrize("target", [1e-3, 3.0])
def test_steps_that_nobody_takes_need_no_noise(target: float, rate: float, number: int) -> None:
    assert noise_multiplier(target, 1e-5, rate, number) == 0.0


@pytest.mark.parametrize("error", [OverflowError, ValueError, RuntimeError, MemoryError])
def test_where_the_tight_accountant_fails_the_figure_is_that_of_rdp(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> float:
        raise error("the grid is too large")

    monkeypatch.setattr(PRVAccountant, "get_epsilon", fail)
    found = epsilon(steps(0.01, 1.0, 1000), 1e-5)
    assert (found.accountant, found.value) == ("RDP", found.rdp)
    assert found.rdp == rdp_epsilon(steps(0.01, 1.0, 1000), 1e-5)


def mechanism(**changes) -> Mechanism:
    stated = {
        "unit": "record",
        "adjacency": "add-or-remove",
        "noise_multiplier": 1.0,
        "sampling_rate": 0.1,
        "steps": 5,
        "delta": 1e-5,
        "adversary": "the server",
    }
    return Mechanism(**{**stated, **changes})


def test_a_guarantee_says_what_it_is_about() -> None:
    found = guarantee(mechanism(), [compose_rounds(mechanism(), 3)])
    assert (found.unit, found.adjacency, found.adversary) == ("record", "add-or-remove", "the server")
    assert (found.steps, found.sampling_rate, found.composition) == (15, 0.1, "15 steps of noise multiplier 1")
    assert found.epsilon == epsilon(steps(0.1, 1.0, 15), 1e-5).value
    two = guarantee(mechanism(), [compose_rounds(mechanism(noise_multiplier=noise), 1) for noise in (1.0, 2.0)])
    assert two.composition == "5 steps of noise multiplier 1, then 5 steps of noise multiplier 2"


def test_what_no_accountant_can_state_is_refused() -> None:
    with pytest.raises(FedsimError, match="add or remove"):
        guarantee(mechanism(adjacency="replace"), [compose_rounds(mechanism(), 1)])
    with pytest.raises(FedsimError, match="Raise the target"):
        noise_multiplier(1e-12, 1e-9, 1.0, 10**9)


def test_the_orders_are_those_of_opacus_and_a_few_large_ones() -> None:
    assert (*RDPAccountant.DEFAULT_ALPHAS, 128.0, 256.0, 512.0) == ORDERS


def test_a_delta_that_the_mechanism_reaches_anyway_costs_no_epsilon() -> None:
    reached = gaussian_delta(1.0, 0.0)
    assert gaussian_epsilon(1.0, reached) == gaussian_epsilon(1.0, reached + 0.05) == 0.0
    assert gaussian_epsilon(1.0, reached - 0.05) > 0.0


@pytest.mark.parametrize("part", [Spent(1.0, math.nan, 1), Spent(math.nan, 1.0, 1), Spent(1.0, 1.0, -1)])
def test_a_figure_outside_of_its_range_costs_not_nothing_but_is_refused(part: Spent) -> None:
    with pytest.raises(FedsimError, match="of a private step is"):
        guarantee(Mechanism("record", "replace", 1.0, 1.0, 1, 1e-5, "all"), [Spent(1.0, 1.0, 1), part])
