"""MT19937 in numbers against NumPy's, and in symbols against numbers."""

import numpy as np
import pytest

from fedsim.privacy.noise_recovery import mersenne


def state(seed):
    return np.random.RandomState(seed).get_state()[1].astype(np.uint32)


def reference(seed, count):
    return np.frombuffer(np.random.RandomState(seed).bytes(4 * count), "<u4")


@pytest.mark.parametrize("count", [1, 623, 624, 2000])
def test_outputs_are_those_of_numpy(count):
    np.testing.assert_array_equal(mersenne.outputs(state(5), count), reference(5, count))


def test_no_outputs_of_a_count_of_0():
    assert len(mersenne.outputs(state(5), 0)) == 0


@pytest.mark.parametrize("count", [0, 1, 226, 624, 777, 1300])
def test_a_state_goes_back_by_any_number_of_outputs(count):
    words = state(11)
    second = mersenne.advance_state(words)
    third = mersenne.advance_state(second)
    line = np.concatenate([words, second, third, mersenne.advance_state(third)])
    earlier = mersenne.rewind(line[count : count + 624], count)
    np.testing.assert_array_equal(mersenne.outputs(earlier, 1300), reference(11, 1300))


def test_first_outputs_are_those_of_each_seed():
    seeds = [0, 1, 42, 2**32 - 1]
    found = mersenne.first_outputs(np.array(seeds, np.uint32), 200)
    np.testing.assert_array_equal(found, np.stack([reference(seed, 200) for seed in seeds], 1))


def test_symbols_say_every_bit_of_outputs_in_three_blocks():
    words = state(3)
    places = [np.arange(bit, 1500, 31 + bit) for bit in range(32)]
    rows = mersenne.rows(places)
    outputs = mersenne.outputs(words, 1500)
    expected = np.concatenate([outputs[place] >> bit & 1 for bit, place in enumerate(places)])
    np.testing.assert_array_equal(np.bitwise_count(rows & words.view("<u8")).sum(1) & 1, expected)


def test_of_the_first_word_outputs_depend_on_the_highest_bit_alone():
    rows = mersenne.rows([np.arange(0, 1400, 3)] * 32)
    assert not np.any(rows[:, 0] & np.uint64(0x7FFFFFFF))
    assert np.any(rows[:, 0] & np.uint64(0x80000000))
