"""Messages of an epoch are found by the number of the example."""

import torch
from torch import nn

from fedsim.questions.vertical.types import CutStep, CutView


def test_messages_of_rows_come_from_whichever_step_has_them() -> None:
    bottom = nn.Flatten()
    steps = [
        CutStep(torch.tensor([4, 0]), {"a": torch.tensor([[4.0], [0.0]])}, {"a": torch.tensor([[-4.0], [0.0]])}),
        CutStep(torch.tensor([2]), {"a": torch.tensor([[2.0]])}, {"a": torch.tensor([[-2.0]])}, {"a": bottom}),
    ]
    view = CutView(party="a", place=(3, 4), classes=2, shape=(1,), rows=torch.tensor([2, 4]), steps=steps)
    assert view.sent_activations(view.rows).tolist() == [[2.0], [4.0]]
    assert view.received_gradients(torch.tensor([0, 2])).tolist() == [[0.0], [-2.0]]
    assert view.width == 1
    assert view.bottom is bottom
