"""A known linear top gives every label, of ten classes too, from the entries that dropout kept."""

import pytest
import torch

from attacks.vertical.head_algebra import output_errors
from fedsim.core.errors import NotApplicable
from tests.attacks.vertical.label_seats import guessed, trained_seat

CLASSES = 10


def test_every_label_of_ten_classes_is_read() -> None:
    view, labels = trained_seat(3, classes=CLASSES, width=32)
    assert torch.equal(guessed("head-algebra", view), labels)


@pytest.mark.parametrize("rate", [0.5, 0.8])
def test_under_dropout_every_example_with_enough_kept_entries_is_read(rate: float) -> None:
    view, labels = trained_seat(1, classes=CLASSES, width=32, dropout=rate, dropout_at="top")
    enough = (view.received_gradients(view.rows) != 0).sum(1) >= CLASSES - 1
    assert int(enough.sum()) >= 10
    assert torch.equal(guessed("head-algebra", view)[enough], labels[enough])


def test_errors_are_those_of_the_outputs_up_to_a_factor() -> None:
    weights = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).double()
    errors = torch.tensor([[0.2, 0.3, -0.5], [-0.9, 0.6, 0.3]]).double()
    solved = output_errors(weights, errors @ weights)
    for one, other in zip(solved, errors, strict=True):
        assert torch.allclose(one / one.norm(), other / other.norm(), atol=1e-12)  # rounding of a small system


def test_a_top_with_a_hidden_layer_is_refused() -> None:
    with pytest.raises(NotApplicable, match=r"vertical\.top = 'linear'"):
        guessed("head-algebra", trained_seat(top="mlp")[0])
