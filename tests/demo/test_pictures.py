"""Strips of grey pictures and masks as digits, read back."""

import base64
import io

import numpy as np
import torch
from PIL import Image

from fedsim.demo.pictures import bits, strip


def test_a_strip_has_a_row_a_frame_and_a_column_an_image_in_sixteen_greys() -> None:
    frames = torch.rand(3, 2, 1, 4, 5, generator=torch.Generator().manual_seed(0)) * 1.4 - 0.2
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(strip(frames)))).convert("L"))
    assert picture.shape == (12, 10)
    for frame in range(3):
        for image in range(2):
            own = picture[4 * frame : 4 * frame + 4, 5 * image : 5 * image + 5] / 255
            assert np.abs(own - frames[frame, image, 0].clamp(0, 1).numpy()).max() <= 0.5 / 15 + 1e-6


def test_entries_above_one_half_are_ones_from_the_highest_bit_on() -> None:
    assert bits(torch.tensor([1.0, 0.0, 0.6, 0.4, 0.0, 0.0, 0.0, 1.0, 1.0])) == "a180"
