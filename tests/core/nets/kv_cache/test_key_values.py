"""Keys and values of rows of any lengths, against lists that grow and shrink."""

import random

import pytest
import torch
from torch import Tensor

from fedsim.core.nets.kv_cache import KVCache

HEADS, WIDTH = 2, 3


def fresh(rows: int, length: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    keys = torch.randn(rows, HEADS, length, WIDTH, generator=source)
    return keys, -keys


def test_buffers_hold_what_lists_hold_while_rows_grow_and_forget() -> None:
    source, dice = torch.Generator().manual_seed(0), random.Random(0)
    key_values, lists = KVCache(2, 3), [[torch.zeros(HEADS, 0, WIDTH) for _ in range(3)] for _ in range(2)]
    for _ in range(40):
        layer, length = dice.randrange(2), dice.randint(1, 9)
        keys, values = fresh(3, length, source)
        counts = [dice.randint(0, length) for _ in range(3)]
        all_keys, all_values = key_values.update(keys, values, layer)
        assert torch.equal(all_values, -all_keys)
        for row in range(3):
            whole = torch.cat((lists[layer][row], keys[row]), 1)
            assert torch.equal(all_keys[row, :, : whole.shape[1]], whole)
            lists[layer][row] = whole[:, : lists[layer][row].shape[1] + counts[row]]
        key_values.advance(layer, counts)
        gone = dice.randint(0, key_values.held[layer][1])
        key_values.drop(1, [layer], gone)
        lists[layer][1] = lists[layer][1][:, : key_values.held[layer][1]]
        assert key_values.held[layer] == [row.shape[1] for row in lists[layer]]


@pytest.mark.parametrize("places", [[], [0, 1], [1, 3], [2]])
def test_what_is_picked_moves_to_the_end_of_what_is_held(places: list[int]) -> None:
    source, key_values = torch.Generator().manual_seed(1), KVCache(1, 2)
    held, _ = fresh(2, 2, source)
    key_values.update(held, -held, 0)
    key_values.advance(0, [2, 1])
    new, _ = fresh(2, 4, source)
    key_values.update(new, -new, 0)
    key_values.pick(1, [0], places)
    assert key_values.held == [[2, 1 + len(places)]]
    more, _ = fresh(2, 1, source)
    keys, values = key_values.update(more, -more, 0)
    expected = torch.cat((held[1, :, :1], new[1, :, places], more[1]), 1)
    assert torch.equal(keys[1, :, : expected.shape[1]], expected)
    assert torch.equal(values[1, :, : expected.shape[1]], -expected)


def test_a_layer_keeps_some_of_the_keys_that_were_written() -> None:
    source, key_values = torch.Generator().manual_seed(3), KVCache(2, 2)
    keys, values = fresh(2, 4, source)
    for layer in range(2):
        key_values.update(keys, values, layer)
    key_values.advance(1, [4, 4])
    key_values.keep_where(0, torch.tensor([[True, False, True, True], [False, True, False, False]]))
    assert key_values.held == [[3, 1], [4, 4]]
    new, _ = fresh(2, 1, source)
    all_keys, all_values = key_values.update(new, -new, 0)
    for row, places in enumerate(([0, 2, 3], [1])):
        expected = torch.cat((keys[row][:, places], new[row]), 1)
        assert torch.equal(all_keys[row, :, : len(places) + 1], expected)
        assert torch.equal(all_values[row, :, : len(places) + 1], -expected)
    assert torch.equal(key_values.update(new, -new, 1)[0][:, :, :4], keys)


def test_a_copy_holds_the_rows_that_were_named_and_shares_nothing() -> None:
    source, key_values = torch.Generator().manual_seed(2), KVCache(1, 2)
    keys, values = fresh(2, 3, source)
    key_values.update(keys, values, 0)
    key_values.advance(0, [3, 2])
    copy = key_values.keep([1, 1, 0])
    assert copy.held == [[2, 2, 3]]
    new, _ = fresh(3, 1, source)
    changed, _ = copy.update(new, new, 0)
    assert torch.equal(changed[2, :, :3], keys[0])
    assert torch.equal(changed[0, :, :3], torch.cat((keys[1, :, :2], new[0]), 1))
    again, _ = key_values.update(torch.zeros(2, HEADS, 1, WIDTH), torch.zeros(2, HEADS, 1, WIDTH), 0)
    assert torch.equal(again[0, :, :3], keys[0])


def test_a_copy_of_all_rows_writes_into_room_of_its_own() -> None:
    source, key_values = torch.Generator().manual_seed(4), KVCache(1, 2)
    for counts in ([3, 2], [1, 1]):  # rows of other lengths: the second update makes room, which later ones write into
        key_values.update(*fresh(2, max(counts), source), 0)
        key_values.advance(0, counts)
    copy = key_values.keep([0, 1])
    keys, values = fresh(2, 1, source)
    all_keys, all_values = key_values.update(keys, values, 0)
    copy.update(torch.zeros_like(keys), torch.zeros_like(values), 0)
    for row, place in enumerate((4, 3)):
        assert torch.equal(all_keys[row, :, place], keys[row, :, 0])
        assert torch.equal(all_values[row, :, place], values[row, :, 0])


def test_room_behind_what_is_held_is_zero_however_it_grows() -> None:
    key_values = KVCache(1, 2)
    for length in (1, 200):
        keys = torch.ones(2, HEADS, length, WIDTH)
        found, _ = key_values.update(keys, keys, 0)
        key_values.advance(0, [length, 0])
    assert float(found[1, :, 200:].abs().sum()) == 0
