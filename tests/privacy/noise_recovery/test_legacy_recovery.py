"""The state of NumPy's legacy generator comes back from values that an update left unchanged, and from no others."""

import numpy as np
import pytest
import torch

from fedsim.privacy.noise_recovery import legacy_recovery
from fedsim.privacy.noise_recovery.legacy_recovery import GENERATOR, recover_legacy_state
from fedsim.privacy.noise_recovery.recovery import subtract_noise
from fedsim.privacy.noise_recovery.result import ComputedNoise, UnknownNoise

DEVIATION = 4.8


def sent(shapes, changed, drawn_before=0, seed=0x5EED1234):
    """Return an update and the update plus noise; tensors whose number is in `changed` have an update that is not 0."""
    generator, updates = np.random.RandomState(seed), np.random.default_rng(6)
    generator.normal(size=1000 + drawn_before)
    clean, noisy = {}, {}
    for number, shape in enumerate(shapes):
        update = 0.003 * updates.normal(size=shape) * (number in changed)
        clean[str(number)] = torch.as_tensor(update, dtype=torch.float32)
        noise = generator.normal(0, DEVIATION, shape).astype(np.float32)
        noisy[str(number)] = clean[str(number)] + torch.from_numpy(noise)
    return clean, noisy


@pytest.mark.slow
@pytest.mark.parametrize("drawn_before", [0, 1])  # even and odd: the first value begins a pair, or ends a pair
def test_all_noise_comes_back(drawn_before):
    clean, noisy = sent([(5, 3), (90, 100), (), (4, 700)], changed=(0, 2, 3), drawn_before=drawn_before)
    found, cleaned = subtract_noise(noisy, most_seeds=10, deviation=DEVIATION)
    assert isinstance(found, ComputedNoise)
    assert (found.generator, found.source, found.rank) == (GENERATOR, "state", 19937)
    assert found.is_complete
    assert all(torch.allclose(cleaned[name], clean[name], rtol=0, atol=5e-6) for name in clean)


@pytest.mark.parametrize("seed", [1000, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1001, 1003))])
def test_most_pairs_of_a_chunk_without_update_are_placed(seed):
    """Twice as many pairs in a chunk leave chains of links whose residuals do not converge: 955 to 2,542 are placed."""
    noise = np.random.RandomState(seed).normal(size=60_000).astype(np.float32).astype(np.float64)
    attempts = legacy_recovery._attempts(noise)
    assert {attempt.pair_offset for attempt in attempts} == {0}, "the first value begins a pair"
    assert all(len(attempt.positions.pairs) > 0.45 * len(attempt.pairs) for attempt in attempts)
    assert len({attempt.start for attempt in attempts}) == len(attempts) == 7


def test_the_chunk_with_most_placed_pairs_comes_first_and_places_stand_in_the_message():
    """Runs of 4,608 values without update, as of adapters of rank 8 at width 576, beside a longer run."""
    noise = np.random.RandomState(77).normal(size=120_001)[1:].astype(np.float32).astype(np.float64)
    is_quiet = np.zeros(len(noise), np.bool_)
    for begin, length in ((10_000, 4_608), (40_000, 4_608), (80_000, 7_000)):
        is_quiet[begin : begin + length] = True
    attempts = legacy_recovery._attempts(np.where(is_quiet, noise, noise + 1e-3))
    assert attempts[0].pair_offset == 1
    assert 80_000 <= 2 * attempts[0].before < 82_000
    assert is_quiet[attempts[0].used].all()
    sizes = [len(attempt.positions.pairs) for attempt in attempts]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] >= 1_200


def test_a_dense_update_hides_the_positions():
    _, noisy = sent([(90, 100)], changed=(0,))
    found = recover_legacy_state([tensor / DEVIATION for tensor in noisy.values()])
    assert isinstance(found, UnknownNoise)
    assert "positions" in found.reason


@pytest.mark.parametrize("generator", ["torch", "pcg64"])
def test_noise_of_other_generators_has_no_positions(generator):
    torch_noise = torch.empty(20_001).normal_(generator=torch.Generator().manual_seed(123_456_789_012))
    noise = torch_noise if generator == "torch" else torch.from_numpy(np.random.default_rng(3).normal(size=20_001))
    assert isinstance(recover_legacy_state([noise]), UnknownNoise)


def test_the_time_limit_ends_the_search():
    _, noisy = sent([(90, 100)], changed=())
    found = recover_legacy_state([tensor / DEVIATION for tensor in noisy.values()], seconds=0.0)
    assert "the time of 0 seconds is over" in found.reason
