"""Boxes are found by labels and by smoothness."""

import pytest
import torch

from attacks.mixed_batches._cutmix_boxes import assemble
from fedsim.components.augment.cutmix import CutMix, CutMixConfig


@pytest.mark.parametrize("seed", [0, 1, 2, 4])
def test_a_box_is_found_from_a_weight_that_is_a_little_wrong(seed: int) -> None:
    """Smooth images that differ; the boxes are those that the component draws."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 20), torch.linspace(0, 1, 20), indexing="ij")
    images = torch.stack([rows, columns, 1 - rows])[:, None]
    cutmix, generator = CutMix(CutMixConfig(probability=1.0)), torch.Generator().manual_seed(seed)
    draw = cutmix.draw(images, generator)
    partners = torch.tensor([1, 2, 0])
    composites = cutmix.mix_inputs(images, draw._replace(partners=partners))
    weight = float(draw.weights[0])
    assert 0.1 < weight < 0.9, "something is pasted"
    own = torch.eye(3)
    found = assemble(composites, (weight + 0.02) * own + (0.98 - weight) * own[partners], None, 0.04)
    assert torch.equal(found.images, images) or torch.equal(found.images, images[partners])


def test_the_box_is_found_by_its_area_and_by_smoothness() -> None:
    """Smooth images that differ: only the true box puts all of them together without a seam."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 12), torch.linspace(0, 1, 9), indexing="ij")
    images = torch.stack([rows, columns, 1 - rows, rows * columns])[:, None]
    partners, box, own = torch.tensor([1, 2, 3, 0]), torch.tensor([2, 7, 3, 9]), torch.eye(4)
    composites = images.clone()
    composites[:, :, 2:7, 3:9] = images[partners][:, :, 2:7, 3:9]
    weight = 1 - 30 / 108
    found = assemble(composites, weight * own + (1 - weight) * own[partners], None)
    assert found.boxes[0].tolist() == box.tolist()
    assert torch.equal(found.images, images)
    assert assemble(composites, own, None) is None
