"""A model without visual tokens is refused in a sentence."""

import pytest
from torch import nn

from fedsim.core.errors import NotApplicable
from fedsim.core.nets.visual import VisualShape, can_read_images, reads_images
from tests.models.vlms import small_vlm


def test_models_say_whether_they_read_images() -> None:
    model = small_vlm()
    assert can_read_images(model)
    assert not can_read_images(nn.Linear(2, 2))
    assert reads_images(model, "mine") is model
    with pytest.raises(NotApplicable, match="component 'mine' leaves visual tokens out, and model Linear has none"):
        reads_images(nn.Linear(2, 2), "mine")


def test_an_image_has_as_many_tokens_as_its_grid() -> None:
    assert VisualShape((3, 5), 2, 1, 4, 8, 8).patches == 15
