"""One forward pass and one step before an audit; tests/audit/test_pairs.py has what goes wrong in them."""

import pytest
import torch
from torch import nn

from fedsim.audit.trial_step import outputs_in, scores_of, try_step
from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch


@pytest.mark.parametrize(
    ("scores", "labels", "outputs"),
    [
        (torch.zeros(2, 5), torch.zeros(2, dtype=torch.long), 5),
        (torch.zeros(2, 7, 5), torch.zeros(2, 7, dtype=torch.long), 5),
        (torch.zeros(2, 1), torch.zeros(2, 1), 1),
        (torch.zeros(2), torch.zeros(2), 1),
        (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long), 3),
        (torch.zeros(2, 4, 3), torch.zeros(2, 4, 3), 12),
        (torch.zeros(2, 6, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long), 6),
        (torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8), 1),
    ],
)
def test_outputs_are_counted_by_what_labels_are(scores: torch.Tensor, labels: torch.Tensor, outputs: int) -> None:
    assert outputs_in(scores, labels, "client") == outputs


def test_scores_that_are_none_of_a_class_are_refused() -> None:
    with pytest.raises(FedsimError, match=r"returns \(2, 3, 3\), expected scores of shape \(2, classes\)"):
        outputs_in(torch.zeros(2, 3, 3), torch.zeros(2, dtype=torch.long), "client")


def test_the_model_that_is_tried_stays_as_it_was() -> None:
    model, batch = nn.BatchNorm1d(3), Batch(torch.rand(4, 3), torch.rand(4, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert scores_of(model, batch, "client").shape == (4, 3)
    try_step(model, nn.MSELoss(), batch, "client")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
