"""The factor rule against trying every number of places."""

import pytest
import torch

from fedsim.core.hooks import MaskedTextState
from tests.components.generating import make
from tests.components.unmasking import run, tiny_llada

NOBODY = MaskedTextState((), (), ())


@pytest.mark.paper_step("factor", "the largest number of places that the factor allows")
@pytest.mark.parametrize("factor", [0.7, 1.0, 1.3, 1.9])
def test_it_writes_the_largest_number_that_the_rule_allows(factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for count in range(1, 9):
        for power in (0.05, 0.3, 1.0):
            confidence = torch.rand(count, generator=generator, dtype=torch.double) ** power
            ordered = sorted(confidence.tolist(), reverse=True)
            allowed = [n for n in range(1, count + 1) if (n + 1) * (1 - ordered[n - 1]) < factor]
            chosen = make("factor", factor=factor).choose(confidence, NOBODY, 0)
            assert len(chosen) == max([1, *allowed])
            assert sorted(confidence[chosen].tolist(), reverse=True) == ordered[: len(chosen)]


def test_towards_zero_it_is_one_place_a_step() -> None:
    prompts = [[1, 2, 3], [4, 5, 6]]
    steps = run("fixed", tiny_llada(), prompts, 8, block=4)
    low = run("factor", tiny_llada(), prompts, 8, block=4, factor=1e-9)
    assert [(own.tokens, own.trace) for own in low] == [(step.tokens, step.trace) for step in steps]
