"""The state of torch's generator comes back from values behind an update, and nothing does from other noise."""

import numpy as np
import pytest
import torch

from fedsim.privacy.noise_recovery import box_muller, mersenne, state_recovery
from fedsim.privacy.noise_recovery.elimination import LinearSystem
from fedsim.privacy.noise_recovery.recovery import recover_noise
from fedsim.privacy.noise_recovery.result import ComputedNoise
from fedsim.privacy.noise_recovery.state_recovery import recover_state

MLP = ((60, 400), (60,), (10, 60), (10,))


def sent(shapes, scale, earlier=0, dtype=torch.float32, seed=0x5EED1234):
    """Return values and the noise in them; the generator drew single values and a vector before."""
    generator = torch.Generator().manual_seed(seed)
    torch.rand(1001, generator=generator)
    for _ in range(earlier):
        torch.empty(()).normal_(generator=generator)
    noise = [torch.empty(shape, dtype=dtype).normal_(generator=generator) for shape in shapes]
    update = torch.Generator().manual_seed(6)
    return [n + scale * torch.randn(n.shape, generator=update, dtype=dtype) for n in noise], noise


def check(found, noise, atol=0.0):
    assert isinstance(found, ComputedNoise), found
    assert (found.source, found.rank) == ("state", 19937)
    assert found.equations >= 19937 + 500
    assert all(torch.allclose(a, b, rtol=0, atol=atol) for a, b in zip(found.noise, noise, strict=True))


def test_values_that_are_too_few_are_refused_at_once():
    found = recover_state([torch.zeros(900), torch.zeros(15)])
    assert "900 values are too few" in str(found)
    assert found.seconds < 1


def test_coarse_types_are_refused():
    assert "torch.bfloat16" in str(recover_state([torch.zeros(5000, dtype=torch.bfloat16)]))


@pytest.mark.slow
def test_a_dense_update_of_which_nothing_is_known_comes_back_exactly():
    values, noise = sent(MLP, 0.05)
    found = recover_state(values)
    check(found, noise)
    assert 0.02 < found.disagreement < 0.05
    assert "state from" in str(found)
    assert found.dropped_equations == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shapes", "earlier"), [(((7,), (50, 450), (5,)), 1), (((3,), (4,), (30, 1000), (1,), (2,)), 2)]
)
def test_small_tensors_come_back_too_whether_a_value_was_kept_or_not(shapes, earlier):
    values, noise = sent(shapes, 0.03, earlier)
    found = recover_state(values)
    assert isinstance(found, ComputedNoise), found
    lost = earlier % 2  # the kept value, of which the message shows no bit
    assert torch.equal(found.noise[0].flatten()[lost:], noise[0].flatten()[lost:])
    assert all(torch.equal(a, b) for a, b in zip(found.noise[1:], noise[1:], strict=True))


@pytest.mark.slow
def test_few_coordinates_suffice_where_the_update_is_zero():
    values, noise = sent(((2500,),), 0.0)
    check(recover_state(values), noise)


@pytest.mark.slow
def test_guessed_zeros_help_where_the_update_is_large():
    values, noise = sent(((50, 1000), (20_000,)), 0.0)
    quiet = [torch.zeros(50, 1000, dtype=torch.bool), torch.zeros(20_000, dtype=torch.bool)]
    quiet[0][:, :100] = True
    update = torch.where(quiet[0], 0.0, 1.5)
    values[0], values[1] = values[0] + update, values[1] + 1.5
    check(recover_state(values, quiet), noise)
    assert not isinstance(recover_state(values), ComputedNoise)


@pytest.mark.slow
def test_float64_comes_back():
    values, noise = sent(((4000,),), 0.0, dtype=torch.float64)
    check(recover_state(values), noise)


@pytest.mark.slow
def test_noise_from_the_operating_system_gives_contradictions():
    from fedsim.privacy.secure_noise import normal

    found = recover_noise([normal(torch.empty(shape)) for shape in MLP], most_seeds=1000)
    assert not isinstance(found, ComputedNoise)
    assert "contradict" in str(found)


class Recorder:
    """Keeps equations in place of solving them."""

    def add(self, rows, constants):
        self.rows, self.constants = rows, constants


@pytest.mark.slow
def test_a_hundred_right_hand_sides_of_a_correct_generator_contradict_and_that_of_a_state_does_not():
    """One elimination decides all right-hand sides: they are further unknowns, in columns behind the state's.

    A row whose part of the state is cleared holds a contradiction of each right-hand side with a 1. If the right-hand
    sides add their full number to the rank, each of them is contradicted by some row.
    """
    generator = torch.Generator().manual_seed(0xABCDEF)
    z = torch.empty(4000).normal_(generator=generator).double().numpy()
    pairs = box_muller.layout([4000], [torch.float32], holds_value=False)
    margin, bits = box_muller.margins(z, pairs)
    recorder = Recorder()
    order = np.argsort(-margin, axis=None, kind="stable")[: mersenne.RANK + 4000]
    state_recovery._add(recorder, order, bits, pairs)
    random = np.random.default_rng(8).integers(0, 1 << 64, (len(recorder.rows), 2), np.uint64)
    random[:, 1] &= np.uint64((1 << 36) - 1)  # 100 right-hand sides: 64 and 36
    true = recorder.constants.astype(np.uint64) << np.uint64(40)
    random[:, 1] |= true
    system = LinearSystem(mersenne.COLUMNS + 128)
    system.add(np.concatenate([recorder.rows, random], 1), np.zeros(len(random), np.uint8))
    of_state = sum(len(group.bits) for group in system._groups[: mersenne.COLUMNS // 8])
    assert 18_000 < of_state <= mersenne.RANK < system.equations - 500
    assert system.rank == of_state + 100
    assert [len(group.bits) for group in system._groups[mersenne.COLUMNS // 8 :]] == [8] * 12 + [4, 0, 0, 0]
