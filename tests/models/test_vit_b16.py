"""ViT-B/16 has the sizes of the paper."""

import torch

from fedsim.models.vit_b16 import VitB16Config, vit_b16
from tests.models.sizes import mask_values, parameters, spec


def test_vit_b16_has_the_sizes_of_the_paper() -> None:
    with torch.device("meta"):
        model = vit_b16(VitB16Config(), spec(3, 224, 224, classes=1000))
    assert parameters(model) == 86_540_008
    assert mask_values(model, 3, 224, 224) == (49, 16_633_104)
