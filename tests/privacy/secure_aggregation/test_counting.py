"""Sums of counts against all keys of a small ring: what they say of a count, and which forged ones pass."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.privacy.secure_aggregation import counting
from fedsim.privacy.secure_aggregation.counting import check_modulus, decode, encode
from fedsim.privacy.secure_aggregation.ring import modular_sum

KEY = bytes(range(32))
BITS = 40
SMALL = 8  # bits of a ring whose keys can all be tried


def contributions(clients: int, size: int) -> Tensor:
    return torch.randint(2, (clients, size), generator=torch.Generator().manual_seed(clients))


@pytest.mark.parametrize("bits", [28, 40, 62])
@pytest.mark.parametrize("survivors", [1, 4, 7, 8])
def test_counts_come_back_from_the_sum(bits: int, survivors: int) -> None:
    own = contributions(8, 50)[:survivors]
    total = modular_sum([encode(each, KEY, 8, bits) for each in own], bits)
    assert torch.equal(decode(total, KEY, survivors, 8, bits), own.sum(0))


def sums(count: int, survivors: int, shift: int) -> Counter[int]:
    """How often each sum comes up, over all factors and offsets."""
    size = 1 << SMALL
    keys = ((factor, offset) for factor in range(1, size, 2) for offset in range(size))
    return Counter(((factor * count << shift) + survivors * offset) % size for factor, offset in keys)


@pytest.mark.parametrize("survivors", [5, 6, 8])
def test_a_sum_says_nothing_of_its_count(survivors: int) -> None:
    """Over all keys of a small ring every count gives every sum equally often; without the shift an even sum tells."""
    shift = (8).bit_length() - 1
    assert all(sums(count, survivors, shift) == sums(0, survivors, shift) for count in (1, survivors))
    assert (sums(1, survivors, 0) == sums(0, survivors, 0)) == bool(survivors % 2)


@pytest.mark.parametrize("survivors", [1, 5, 8])
def test_a_forged_sum_passes_as_rarely_as_stated(survivors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All numbers that can be added, against all factors, on counts of every size."""
    size, cohort = 1 << SMALL, 8
    factors = torch.arange(1, size >> 3, 2)
    monkeypatch.setattr(counting, "_streams", lambda *_: (factors, torch.zeros_like(factors)))
    taken: list[float] = []
    for count in {0, survivors // 2, survivors}:
        honest = (factors * count << 3) % size
        for added in range(1, size):
            with pytest.raises(FedsimError) as noticed:
                decode((honest + added) % size, KEY, survivors, cohort, SMALL)
            taken.append(1 - int(str(noticed.value).split(" elements")[0].split(" ")[-1]) / len(factors))
    assert 0 < max(taken) <= 2 * survivors * 8 / size


def test_another_key_and_a_changed_sum_are_noticed() -> None:
    own = contributions(5, 50)
    total = modular_sum([encode(each, KEY, 5, BITS) for each in own], BITS)
    changed = total.clone()
    changed[7] = (changed[7] + 4) % (1 << BITS)
    for bad, key, survivors, where in ((changed, KEY, 5, 1), (total, bytes(32), 5, 50), (total, KEY, 4, 50)):
        with pytest.raises(FedsimError, match=f"no sum of the counts of {survivors} clients at {where} elements"):
            decode(bad, key, survivors, 5, BITS)


def test_a_client_counts_once() -> None:
    for bad in (2, -1):
        with pytest.raises(FedsimError, match="expected 0 or 1"):
            encode(torch.tensor([0, bad]), KEY, 4, BITS)


def test_a_modulus_too_small_for_counts_is_refused_with_one_that_is_not() -> None:
    for cohort in (2, 7, 8, 50):
        with pytest.raises(FedsimError, match=f"modulus_bits is 20, but counts of {cohort} clients") as refused:
            check_modulus(cohort, 20)
        advised = int(str(refused.value).split("at least ")[1].split(",")[0])
        assert 2 * cohort * 2 ** (cohort.bit_length() - 1) / 2**advised <= 2**-20
        check_modulus(cohort, advised)
        with pytest.raises(FedsimError):
            check_modulus(cohort, advised - 1)
