"""Rows of figures: padded series, how often each value stands, and few figures of each series."""

from attacks.generation._traces import summarise, tabulate
from fedsim.core.types import TraceObservation


def counts(*own: int) -> TraceObservation:
    return TraceObservation(("counts",), counts=own)


def test_a_row_is_the_padded_series_its_length_and_how_often_each_value_stands_in_it() -> None:
    rows = tabulate([counts(2, 1, 2), counts(1)]).tolist()
    assert rows == [[2, 1, 2, 3, 1, 2], [1, -1, -1, 1, 1, 0]]


def test_seconds_have_no_histogram() -> None:
    rows = tabulate([TraceObservation(("timing",), seconds=own) for own in ((0.5, 0.25), (0.125,))])
    assert rows.tolist() == [[0.5, 0.25, 2], [0.125, -1, 1]]


def test_figures_are_length_sum_squares_and_first_step_of_each_series_by_name() -> None:
    seen = TraceObservation(("work",), work={"layers": (3, 4), "accepted": (1, 2)})
    assert summarise([seen, TraceObservation(("work",), work={})]).tolist() == [[2, 3, 5, 1, 2, 7, 25, 3], [0] * 8]
