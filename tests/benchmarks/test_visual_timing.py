"""What seconds tell is what they differ by."""

import torch

from benchmarks.visual_timing import filled_cells, in_tenths, rows_of


def test_tenths_are_those_of_the_earlier_half() -> None:
    found = in_tenths(torch.cat((torch.arange(100.0), torch.tensor([-5.0, 55.0, 1000.0] + [0.0] * 97))))
    assert found[:100].sum(0).tolist() == [10] * 10
    assert found[100:103].argmax(1).tolist() == [0, 5, 9]


def test_cells_with_a_digit_are_counted() -> None:
    images = 0.1 * torch.rand(2, 1, 56, 56, generator=torch.Generator().manual_seed(0))
    images[0, 0, 20, 20] = images[0, 0, 50, 3] = images[1, 0, 5, 5] = 0.9
    assert filled_cells(images).tolist() == [2, 1]


def test_seconds_that_follow_the_kind_tell_it_and_equal_numbers_do_not() -> None:
    kinds = torch.randint(3, (400,), generator=torch.Generator().manual_seed(0))
    even = torch.full((400,), 64)
    rows = {(row.name, row.setting): row.value for row in rows_of("it", kinds + 1.0, even, kinds, kinds % 2)}
    usual = rows["told by number of tokens: kind of question", "it: most frequent answer"]
    assert rows["told by seconds: kind of question", "it"] == 100
    assert rows["told by number of tokens: kind of question", "it"] == usual
