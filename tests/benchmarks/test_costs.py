"""The picture of what defenses cost names the settings that none beats, and stands in the page as it was drawn."""

import xml.etree.ElementTree as ET

import pytest

from benchmarks import _costs
from benchmarks._costs import Point
from benchmarks._rows import Row
from fedsim.core.errors import FedsimError

ROWS = [
    Row("PSNR, naive", "none", 60.0, "dB"),
    Row("accuracy", "none", 0.9, "share"),
    Row("PSNR, naive", "weak & slow", 20.0, "dB"),
    Row("PSNR, informed", "weak & slow", 40.0, "dB"),
    Row("accuracy", "weak & slow", 0.8, "share"),
    Row("PSNR, naive", "strong", 10.0, "dB"),
    Row("accuracy", "strong", 0.85, "share"),
]


def test_the_stronger_attacker_counts_and_what_another_setting_beats_is_not_on_the_frontier() -> None:
    every = _costs.points(ROWS)
    assert every[1] == Point("weak & slow", 0.8, 40.0)
    assert [one.setting for one in _costs.best_of(every)] == ["none", "strong"]


def test_every_setting_is_a_mark_that_says_what_it_is_and_right_is_more_accurate() -> None:
    picture = ET.fromstring(_costs.draw(ROWS, "toy"))
    marks = [node for node in picture.iter() if node.tag.endswith("circle")]
    assert [mark[0].text for mark in marks][1] == "weak & slow: accuracy 0.80, 40.0 dB"
    assert int(marks[0].attrib["cx"]) > int(marks[2].attrib["cx"]) > int(marks[1].attrib["cx"])
    assert int(marks[0].attrib["cy"]) < int(marks[1].attrib["cy"]) < int(marks[2].attrib["cy"])
    assert "none beats none: 0.90 and 60 dB, strong: 0.85 and 10 dB" in (picture[0].text or "")


def test_without_both_figures_there_is_nothing_to_draw() -> None:
    with pytest.raises(FedsimError, match="toy: no setting has rows 'accuracy' and 'PSNR'"):
        _costs.draw(ROWS[:1], "toy")
