"""Units of a text, blocks of pads, and what packed pads see."""

import pytest
import torch

from fedsim.components.core.pads import PadBlock, draw_blocks, pack, read, units
from fedsim.core.nets.kv_cache import stack_of
from tests.components.generating import VOCABULARY
from tests.components.loss.padding import BLOCKS, packed_scores, padded, texts

ALPHA = 0.9


@pytest.mark.parametrize(("most", "lengths"), [(4, [3, 2]), (2, [2, 1, 2])])
def test_units_are_those_of_the_table(most: int, lengths: list[int]) -> None:
    assert units([0.2, 0.95, 0.97, 0.3, 0.99], ALPHA, most) == lengths
    assert units([], ALPHA, most) == []


def test_blocks_are_units_of_several_tokens_and_now_and_then_any() -> None:
    lengths, source = [3, 1, 2, 1, 1], torch.Generator().manual_seed(0)
    assert set(draw_blocks(lengths, 4, 4, 0.0, source)) == {PadBlock(0, 2), PadBlock(4, 1)}
    assert len(draw_blocks(lengths, 1, 4, 0.0, source)) == 1
    # As many pads as there are tokens left, at most K - 1; the last unit has none behind it.
    every = {PadBlock(0, 3), PadBlock(3, 3), PadBlock(4, 3), PadBlock(6, 1)}
    assert set(draw_blocks(lengths, 200, 4, 1.0, source)) == every
    assert draw_blocks([], 4, 4, 0.5, source) == []


def test_tokens_see_no_pads() -> None:
    model, batch = padded(), texts()
    scores, _ = packed_scores(model)
    with torch.no_grad():
        torch.testing.assert_close(scores[:, :9], model(batch.inputs), rtol=0, atol=1e-9)  # rounding of doubles


def test_pads_see_earlier_pads_of_their_block_and_nothing_of_the_span() -> None:
    model, batch = padded(), texts()
    stack = stack_of(model)
    assert stack is not None
    packed = pack(batch.inputs, batch.labels, BLOCKS, VOCABULARY, 6)
    hidden_span = packed.tokens.clone()
    hidden_span[0, 5:9] = 1  # the tokens that the second block stands for
    with torch.no_grad():
        plain, changed = read(stack, packed, 9), read(stack, packed._replace(tokens=hidden_span), 9)
        first_pad = packed.tokens.clone()
        first_pad[0, 11] = 1
        moved = read(stack, packed._replace(tokens=first_pad), 9)
    assert torch.equal(plain[0, :5], changed[0, :5])
    assert not torch.allclose(plain[0, 3:5], moved[0, 3:5])
    assert torch.equal(plain[0, :2], moved[0, :2])
    assert torch.equal(plain[1:], moved[1:])
