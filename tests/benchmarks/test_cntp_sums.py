"""Sums that the benchmark of CNTP asks: which are drawn, how they are asked, and what counts as right."""

from benchmarks.cntp import is_sum, question, sums


def test_sums_differ_from_each_other_and_from_those_that_are_shown() -> None:
    drawn = sums(30)
    assert len({*drawn, (2, 3), (4, 1), (7, 5), (6, 9)}) == 34
    assert drawn == sums(30)
    assert question((8, 9)) == "2 + 3 = 5\n4 + 1 = 5\n7 + 5 = 12\n6 + 9 = 15\n8 + 9 ="


def test_a_line_that_is_the_sum_and_nothing_else_is_right() -> None:
    assert is_sum(" 17\n1", (8, 9))
    assert is_sum(" 17", (8, 9))
    assert not any(is_sum(own, (8, 9)) for own in (" 16\n", " 171", "\n17", " 17 = 17", ""))
