"""Passes tell which patches each layer read."""

import torch

from fedsim.core.nets.visual import Stream, VisualReducer, visual_passes
from tests.models.vlms import examples, small_vlm


class Ragged(VisualReducer):
    """Behind layer 1, row r keeps r + 1 tokens."""

    def after_layer(self, before: Stream, after: Stream, layer) -> Stream:
        if layer.number != 1:
            return after
        return after.keep_where(torch.arange(16) <= torch.arange(len(after.patches))[:, None])


def test_each_layer_tells_its_patches() -> None:
    model, (images, question, answer) = small_vlm(Ragged()), examples()
    with visual_passes(model) as passes:
        model(images, question, answer)
    model(images, question)
    (own,) = passes
    assert own.visual == [[16] * 3, [16] * 3, [1, 2, 3], [1, 2, 3]]
    assert own.tokens[3] == (1 + 1 + 7, 1 + 2 + 7, 1 + 3 + 7)
    assert own.patches[3].tolist() == [[0, -1, -1], [0, 1, -1], [0, 1, 2]]
    assert model.listeners == []
