"""Masks of inputs in a span are found by a linear program."""

import pytest
import torch

from attacks.core.attention import attentions
from attacks.text._masked_tokens import kept_shares, only_scales
from attacks.text._subspaces import hard
from tests.attacks.text.spans import gpt2, llama


def test_a_centring_norm_is_not_read_through_dropout() -> None:
    model = gpt2().train()
    assert only_scales(model, attentions(model)[0])  # nothing drops out
    model.get_submodule("own.transformer.drop").p = 0.3
    assert not only_scales(model, attentions(model)[0])
    assert only_scales(llama(dropout=0.3).train(), "layers.0.self_attn.q_proj")


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_a_linear_program_finds_masks_of_inputs_in_a_span(rate: float) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, 48, generator=generator)
    masks = (torch.rand(8, 48, generator=generator) > rate).float()
    gradient = torch.randn(96, 8, generator=generator) @ (inputs * masks)
    space = hard("q_proj", {"q_proj.weight": gradient}, [1e-6])
    assert space.size == 8
    more = kept_shares(space, inputs).float() - masks.mean(1)
    assert more.min() > -1e-3
    assert more.max() < 1.5 / 48  # an entry of the input that is about 0 may be kept or not
    assert kept_shares(space, torch.randn(8, 48, generator=generator)).max() < 0.1
