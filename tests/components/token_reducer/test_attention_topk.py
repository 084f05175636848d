"""attention-topk keeps what the prompt's last token attends to at a layer."""

import pytest
import torch

from fedsim.core.errors import NotApplicable
from fedsim.core.nets.visual import visual_passes
from tests.models.vlms import attended, examples, prepared


@pytest.mark.paper_step("attention-topk", "ranking by the last token's attention")
@torch.no_grad()
def test_the_highest_of_the_last_tokens_row_are_kept_behind_the_layer() -> None:
    model, own = prepared("attention-topk", kept=6, layer=1), examples()
    with visual_passes(model) as passes:
        model(*own)
    assert passes[0].visual == [[16] * 3] * 2 + [[6] * 3] * 2
    assert torch.equal(passes[0].patches[3], attended(own, 1).topk(6).indices.sort().values)


@torch.no_grad()
def test_the_answer_does_not_change_the_choice() -> None:
    model, (images, question, answer) = prepared("attention-topk", kept=6, layer=1), examples()
    with visual_passes(model) as passes:
        model(images, question, answer)
        model(images, question)
    assert torch.equal(passes[0].patches[3], passes[1].patches[3])


def test_a_layer_that_no_other_follows_is_refused() -> None:
    with pytest.raises(NotApplicable, match="layer is 3, and the language model has layers 0 to 3: expected at most 2"):
        prepared("attention-topk", layer=3)
