"""The picture of the rooms shows the layers that imports are checked against, and the steps of a batch."""

from __future__ import annotations

import re
import tomllib
from itertools import groupby
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
PICTURE = (REPOSITORY / "docs" / "images" / "rooms.svg").read_text(encoding="utf-8")


def test_the_picture_of_the_rooms_shows_the_layers_that_are_checked() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    story = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    expected = [{name.strip().removeprefix("fedsim.") for name in layer.split("|")} for layer in story]
    boxes = re.findall(r'<text class="room" x="\d+" y="(\d+)">(\w+)</text>', PICTURE)
    assert [{name for _, name in row} for _, row in groupby(boxes, key=lambda box: box[0])] == expected


def test_each_step_of_a_batch_stands_in_its_room() -> None:
    page = (REPOSITORY / "docs" / "design.md").read_text(encoding="utf-8")
    walk = dict(re.findall(r"^(\d+)\. `(\w+)/`", page, re.MULTILINE))
    box = r'<text class="room"[^>]*>(\w+)</text>\n<text class="what"[^>]*>[^\n]*\n<circle.*?>(\d+)<'
    shown = re.findall(box, PICTURE)
    assert {number: room for room, number in shown} == walk
    assert len(walk) == len(set(walk.values())) == 18
