"""The picture of the rooms shows the layers that are checked and the steps of a batch; no test leans on another,
neither by imports nor by the random numbers that one leaves behind."""

from __future__ import annotations

import random
import re
import tomllib
import zlib
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch

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


def test_no_test_imports_another_tests_file() -> None:
    imports = re.compile(r"^from tests[\w.]*\.test_\w+ import|^from tests[\w.]* import test_", re.MULTILINE)
    files = (REPOSITORY / "tests").rglob("*.py")
    guilty = [str(file.relative_to(REPOSITORY)) for file in files if imports.search(file.read_text(encoding="utf-8"))]
    assert not guilty, "what several tests need stands in a module beside them"


@pytest.mark.parametrize("case", range(2))
def test_a_draw_without_a_source_is_that_of_the_tests_name(request: pytest.FixtureRequest, case: int) -> None:
    seed = zlib.crc32(request.node.nodeid.encode())
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(seed)))
    assert np.random.random() == np.random.RandomState(seed).random()
    assert random.random() == random.Random(seed).random()
