"""Blocks: plain text of a paragraph, and pictures as addresses that need no file."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from fedsim.report.document import Code, Strong, WallCell, paragraph


def test_a_paragraph_reads_as_plain_text() -> None:
    assert paragraph("Read ", Strong("all"), " of ", Code("scores.csv"), ".").text == "Read all of scores.csv."


def test_a_picture_is_an_address_that_holds_its_pixels() -> None:
    pixels = np.array([[[0.0, 0.5, 1.0], [1.0, 0.2, 0.0]]])
    kind, _, content = WallCell(pixels).source.partition(",")
    assert kind == "data:image/png;base64"
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    assert seen.tolist() == [[[0, 128, 255], [255, 51, 0]]]
    assert WallCell(None, text="failed").source == ""
