"""The small ViT: sizes of the paper, and a block against torch's own."""

import pytest

from fedsim.core.errors import FedsimError
from fedsim.core.nets import masks
from fedsim.models.vit_small import VitSmallConfig, vit_small
from tests.models.sizes import mask_values, parameters, spec


@pytest.mark.parametrize(
    ("shape", "weights", "values"), [((3, 32, 32), 1_612_554, 486_720), ((1, 28, 28), 1_600_522, 326_400)]
)
def test_vit_small_has_the_sizes_of_the_paper(shape: tuple[int, ...], weights: int, values: int) -> None:
    model = vit_small(VitSmallConfig(), spec(*shape))
    assert parameters(model) == weights
    assert mask_values(model, *shape) == (17, values)


def test_vit_drops_out_in_the_order_of_the_paper() -> None:
    sites = masks.dropout_sites(vit_small(VitSmallConfig(), spec(3, 32, 32)), (3, 32, 32), 2)
    block = [(2, 16, 65, 65), (2, 65, 256), (2, 65, 256), (2, 65, 256)]
    assert [site.shape for site in sites] == [(2, 65, 256), *block * 4]


def test_vit_refuses_pixels_that_do_not_fill_patches() -> None:
    with pytest.raises(FedsimError, match="multiple of 4, for example 32"):
        vit_small(VitSmallConfig(), spec(1, 30, 30))


def test_a_width_that_does_not_divide_into_heads_is_refused() -> None:
    with pytest.raises(FedsimError, match="multiple of its 3 heads, got 8"):
        vit_small(VitSmallConfig(width=8, heads=3), spec(1, 28, 28))
