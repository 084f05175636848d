"""Attention on embedded patches: its sizes, and what makes its gradient linear in the image."""

import pytest
import torch
from torch import nn

from fedsim.core.errors import FedsimError
from fedsim.models.patch_attention import PatchAttentionConfig, patch_attention
from tests.models.sizes import images, mask_values, spec


def test_one_mask_lies_on_the_embedded_patches() -> None:
    assert mask_values(patch_attention(PatchAttentionConfig(), spec(1, 8, 8)), 1, 8, 8) == (1, 16 * 48)


def test_its_attention_reads_the_projected_patches_and_their_positions_alone() -> None:
    model, seen = patch_attention(PatchAttentionConfig(), spec(3, 6, 4)).eval(), []
    attention, projection = model.get_submodule("attention"), model.get_submodule("project")
    assert isinstance(projection, nn.Conv2d)
    attention.register_forward_pre_hook(lambda _module, inputs: seen.extend(inputs))
    batch = images(2, 3, 6, 4)
    model(batch)
    patches = nn.functional.unfold(batch, 2, stride=2).transpose(1, 2)
    tokens = (
        patches @ projection.weight.flatten(1).T + model.get_parameter("project.bias") + model.get_parameter("position")
    )
    assert len(seen) == 3
    assert all(torch.allclose(one, tokens, atol=1e-5) for one in seen)  # sums of 12 products in single precision


def test_an_image_below_a_patch_is_refused() -> None:
    with pytest.raises(FedsimError, match="at least 2 x 2"):
        patch_attention(PatchAttentionConfig(), spec(1, 1, 8))
