"""cls-topk keeps what the class token attends to, planted or computed by hand."""

import pytest
import torch

from fedsim.core.nets.visual import visual_passes
from tests.models.vlms import examples, prepared, small_vlm


def by_hand(model, images: torch.Tensor) -> torch.Tensor:
    """The class token's row of the attention of the layer whose output is projected, by the definition."""
    hidden = model.vision().embed(images)
    for block in model.encoder[: model.visual.feature_layer]:
        hidden = block(hidden, attention_mask=None, positions=torch.zeros(hidden.shape[:2]))
    own = model.encoder[model.visual.feature_layer]
    normed = own.input_layernorm(hidden)
    query = own.self_attn.q_proj(normed[:, :1]).unflatten(-1, (4, -1))
    keys = own.self_attn.k_proj(normed).unflatten(-1, (4, -1))
    scores = torch.einsum("bqhf,bkhf->bhk", query, keys) / query.shape[-1] ** 0.5
    return scores.softmax(-1).mean(1)[:, 1:]


@pytest.mark.paper_step("cls-topk", "ranking by the class token's attention")
@torch.no_grad()
def test_the_highest_of_the_class_tokens_row_are_kept() -> None:
    model, (images, question, answer) = prepared("cls-topk", kept=6), examples()
    with visual_passes(model) as passes:
        found = model(images, question, answer)
    kept = by_hand(model, images).topk(6).indices.sort().values
    assert torch.equal(passes[0].patches[0], kept)
    plain = small_vlm()
    sequence = plain.sequence(plain.encode(images, question).keep(kept), question, answer)
    expected = plain.language().score(plain.read(sequence).hidden_states[:, sequence.prediction_slice])
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_all_tokens_are_the_model_itself() -> None:
    assert torch.equal(prepared("cls-topk", kept=16)(*examples()), small_vlm()(*examples()))
