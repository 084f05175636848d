"""A transformer block against torch's own."""

import torch
from torch import nn

from fedsim.core import seeding
from fedsim.core.nets import masks
from fedsim.models.vit_small import VitSmallConfig, vit_small
from tests.models.sizes import images, spec


def test_a_transformer_block_is_the_one_of_torch() -> None:
    with seeding.isolate_randomness(0):
        block = vit_small(VitSmallConfig(dropout=0.25), spec(3, 32, 32)).get_submodule("blocks.0")
        oracle = nn.TransformerEncoderLayer(
            256, 16, 256, dropout=0.25, activation="gelu", batch_first=True, norm_first=True
        )
    own = dict(block.named_parameters())
    theirs = {
        "self_attn.in_proj_weight": own["attention.1.queries_keys_values.weight"],
        "self_attn.in_proj_bias": torch.zeros(768),
        "self_attn.out_proj.weight": own["attention.1.output.0.weight"],
        "self_attn.out_proj.bias": own["attention.1.output.0.bias"],
        "norm1.weight": own["attention.0.weight"],
        "norm1.bias": own["attention.0.bias"],
        "norm2.weight": own["mlp.0.weight"],
        "norm2.bias": own["mlp.0.bias"],
        "linear1.weight": own["mlp.1.weight"],
        "linear1.bias": own["mlp.1.bias"],
        "linear2.weight": own["mlp.4.weight"],
        "linear2.bias": own["mlp.4.bias"],
    }
    oracle.load_state_dict(theirs)
    tokens = images(2, 65, 256)
    with torch.no_grad(), masks.record_masks(block, torch.Generator().manual_seed(1)) as recording:
        found = block(tokens)
    with torch.no_grad(), masks.inject_masks(recording.sites, tuple(recording.masks)):
        expected = oracle(tokens)
    assert torch.allclose(found, expected, atol=1e-5)
