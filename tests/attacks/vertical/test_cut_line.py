"""Under a linear top all labels lie on a line, trained or not, dropped out or not."""

import pytest
import torch

from attacks.vertical.cut_line import spread_signs
from fedsim.core.errors import NotApplicable
from tests.attacks.vertical.label_seats import guessed, trained_seat


@pytest.mark.parametrize("epoch", [1, 5, 20])
def test_every_label_is_read_however_well_the_model_is_trained(epoch: int) -> None:
    view, labels = trained_seat(epoch)
    assert len(labels) == 200
    assert torch.equal(guessed("cut-line", view), labels)


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.75])
def test_under_dropout_behind_concatenation_every_example_that_kept_an_entry_is_read(rate: float) -> None:
    view, labels = trained_seat(2, dropout=rate, dropout_at="top")
    kept = (view.received_gradients(view.rows) != 0).any(1)
    expected = 200 * (1 - rate**8)  # eight entries an example; four deviations of that many coins
    assert abs(int(kept.sum()) - expected) <= 4 * (200 * rate**8 * (1 - rate**8)) ** 0.5 + 1
    assert torch.equal(guessed("cut-line", view)[kept], labels[kept])


def test_signs_spread_over_shared_entries_and_stop_where_there_are_none() -> None:
    gradients = torch.tensor([[1.0, -2.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    rows, columns = spread_signs(gradients)
    assert rows.tolist() == [1.0, -1.0, 0.0, 0.0]
    assert columns.tolist() == [1.0, -1.0, 0.0, 0.0]


def test_three_classes_are_refused() -> None:
    with pytest.raises(NotApplicable, match="two classes"):
        guessed("cut-line", trained_seat(classes=3)[0])
