"""From Gaussian values back to bits of outputs: which output, which bit, and how far a value may be off."""

import numpy as np
import pytest
import torch

from fedsim.privacy.noise_recovery import box_muller, mersenne
from fedsim.privacy.noise_recovery.torch_state import state_of


def drawn(sizes, dtypes, held, seed=5):
    generator = torch.Generator().manual_seed(seed)
    start = state_of(generator)
    skipped = 0
    if held:
        torch.empty(()).normal_(generator=generator)
        skipped = 4
    tensors = [
        torch.empty(size, dtype=dtype).normal_(generator=generator) for size, dtype in zip(sizes, dtypes, strict=True)
    ]
    values = torch.cat([tensor.double() for tensor in tensors]).numpy()
    return values, mersenne.outputs(start, 6000)[skipped:]


F, D = torch.float32, torch.float64


@pytest.mark.parametrize(
    ("sizes", "dtypes"),
    [
        ((64,), (F,)),
        ((37,), (F,)),
        ((16,), (D,)),
        ((45, 300), (D, F)),
        ((7, 64, 3, 2, 33), (F, F, F, D, F)),
        ((1, 0, 40), (F, F, F)),
        ((0, 32), (F, F)),
        ((15, 31, 16), (F, F, F)),
    ],
)
@pytest.mark.parametrize("held", [False, True])
def test_the_bits_of_values_are_those_of_the_generators_outputs(sizes, dtypes, held):
    values, outputs = drawn(sizes, dtypes, held)
    pairs = box_muller.layout(sizes, dtypes, held)
    margin, bits = box_muller.margins(values, pairs)
    for uniform, places in enumerate((pairs.radius, pairs.angle)):
        for bit in range(box_muller.MOST_BITS):
            sure = margin[uniform, bit] > 0
            seen = outputs[places] >> (pairs.first_bit - bit) & 1
            np.testing.assert_array_equal(bits[uniform, bit][sure], seen[sure] == 1)
    assert np.count_nonzero(margin > 0) > 20 * len(pairs)


def test_values_that_are_drawn_again_belong_to_no_pair_of_their_first_block():
    pairs = box_muller.layout((37,), (F,), False)
    # Blocks at 0 and 16, the last 16 values from 21 on. Of the second block only values 16 to 20 are left.
    assert sorted((*pairs.cosine, *pairs.sine)) == [*range(16), *range(21, 37)]
    assert pairs.radius.tolist() == [*range(8), *range(37, 45)]


def test_a_margin_is_the_largest_error_that_leaves_the_bit():
    values, _ = drawn((1024,), (F,), False)
    pairs = box_muller.layout((1024,), (F,), False)
    margin, bits = box_muller.margins(values, pairs)
    turns = np.exp(2j * np.pi * np.arange(16) / 16)
    changed = np.zeros_like(bits)
    for share, expected in ((0.999, False), (1.05, True)):
        changed[:] = False
        for turn in turns:
            for bit in range(4):  # an error of the margin in both values, in all directions
                for uniform in (0, 1):
                    off = share * margin[uniform, bit] * np.sqrt(2)
                    moved = values.copy()
                    moved[pairs.cosine] += np.where(np.isfinite(off), off, 0) * turn.real
                    moved[pairs.sine] += np.where(np.isfinite(off), off, 0) * turn.imag
                    changed[uniform, bit] |= box_muller.margins(moved, pairs)[1][uniform, bit] != bits[uniform, bit]
        sure = margin[:, :4] > 1e-3
        if expected:
            assert changed[:, :4][sure].mean() > 0.4  # in the worst of 16 directions, most of them
        else:
            assert not changed[:, :4][sure].any()


def test_types_whose_uniforms_are_coarse_are_not_supported():
    assert box_muller.is_supported(F)
    assert box_muller.is_supported(D)
    assert not box_muller.is_supported(torch.bfloat16)
    assert not box_muller.is_supported(torch.float16)
