"""Linear systems over GF(2): rank, solution and contradictions, against brute force and known solutions."""

import numpy as np
import pytest

from fedsim.privacy.noise_recovery.elimination import LinearSystem


def equations(columns, count, seed):
    generator = np.random.default_rng(seed)
    rows = generator.integers(0, 1 << 64, (count, columns // 64), np.uint64)
    unknowns = generator.integers(0, 1 << 64, columns // 64, np.uint64)
    return rows, unknowns, products(rows, unknowns)


def products(rows, unknowns):
    return (np.bitwise_count(rows & unknowns).sum(1) & 1).astype(np.uint8)


def rank_by_hand(rows):
    """Return the rank by elimination of Python's integers, one bit after the other."""
    numbers, rank = [int.from_bytes(row.tobytes(), "little") for row in rows], 0
    while numbers:
        pivot = numbers.pop()
        if pivot:
            rank += 1
            low = pivot & -pivot
            numbers = [number ^ pivot if number & low else number for number in numbers]
    return rank


@pytest.mark.parametrize(("columns", "count"), [(64, 80), (192, 230), (640, 700)])
def test_a_system_with_enough_equations_has_its_one_solution(columns, count):
    rows, unknowns, constants = equations(columns, count, columns)
    system = LinearSystem(columns)
    system.add(rows, constants)
    assert (system.rank, system.inconsistent, system.equations) == (columns, 0, count)
    np.testing.assert_array_equal(system.solve(), unknowns)


@pytest.mark.parametrize("sizes", [(1,) * 70, (3, 60, 7), (20, 0, 50)])
def test_batches_give_what_one_batch_gives(sizes):
    rows, unknowns, constants = equations(64, 70, 3)
    system, at = LinearSystem(64), 0
    for size in sizes:
        system.add(rows[at : at + size], constants[at : at + size])
        at += size
        assert system.rank == rank_by_hand(rows[:at])
    np.testing.assert_array_equal(system.solve(), unknowns)


def test_the_rank_of_dependent_rows_is_that_of_their_span():
    rows, unknowns, _ = equations(256, 90, 5)
    chosen = np.random.default_rng(1).integers(0, 2, (150, 90), dtype=np.uint8)
    sums = np.array([np.bitwise_xor.reduce(rows[row == 1], axis=0) for row in chosen])
    system = LinearSystem(256)
    system.add(sums, products(sums, unknowns))
    assert system.rank == rank_by_hand(sums) == 90
    assert system.inconsistent == 0
    np.testing.assert_array_equal(products(sums, system.solve()), products(sums, unknowns))


def test_wrong_equations_behind_a_full_rank_are_counted_one_by_one():
    rows, unknowns, constants = equations(128, 300, 7)
    constants[[200, 240, 299]] ^= 1
    system = LinearSystem(128)
    system.add(rows[:150], constants[:150])
    system.add(rows[150:], constants[150:])
    assert system.inconsistent == 3
    np.testing.assert_array_equal(system.solve(), unknowns)


def test_a_wrong_equation_among_the_first_contradicts_about_half_of_the_rest():
    rows, _, constants = equations(128, 428, 9)
    constants[5] ^= 1
    system = LinearSystem(128)
    system.add(rows[:128], constants[:128])
    system.add(rows[128:], constants[128:])
    assert 90 < system.inconsistent < 210


def test_the_callers_rows_stay_as_they_are():
    rows, _, constants = equations(64, 70, 11)
    before = rows.copy()
    LinearSystem(64).add(rows, constants)
    np.testing.assert_array_equal(rows, before)


def test_a_number_of_columns_that_fills_no_word_is_refused():
    with pytest.raises(ValueError, match="multiple of 64"):
        LinearSystem(100)
