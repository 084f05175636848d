"""A head on the party's bottom reads labels, and no gradient."""

from dataclasses import replace

import pytest

from fedsim.questions.vertical.observe import with_raw_columns
from tests.attacks.vertical.label_seats import guessed, trained_seat


@pytest.mark.paper_step("completion", "top trained on few labels over the party's bottom")
def test_a_few_labels_and_the_bottom_read_most_labels_without_a_gradient() -> None:
    view, labels = trained_seat(3)
    blind = replace(view, steps=[replace(step, down={}) for step in view.steps])
    right = int((guessed("completion", blind) == labels).sum())
    assert right > 160  # of 200; half of them would be chance


def test_it_takes_raw_columns_in_place_of_a_bottom() -> None:
    view, labels = trained_seat(1)
    right = int((guessed("completion", with_raw_columns(view)) == labels).sum())
    assert right > 140  # the columns alone tell these classes apart


def test_swapped_known_labels_swap_what_it_reads() -> None:
    view, labels = trained_seat(1)
    swapped = replace(view, labels=1 - view.labels)
    turned = guessed("completion", swapped, weight=0.0)
    assert int((turned == labels).sum()) < 60  # of 200
