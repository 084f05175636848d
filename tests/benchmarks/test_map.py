"""Results as a map: rows and columns are read from settings, and a square says what became of it."""

import xml.etree.ElementTree as ET

import pytest

from benchmarks import _figures, _map
from benchmarks._map import Square
from benchmarks._rows import Row, share
from fedsim.core.errors import FedsimError

ROWS = [
    share("updates with every image exact", "gauss-newton, LeNet, sigmoid, digits, B = 1", [1.0] * 5),
    share("updates with every image exact", "copa, LeNet, sigmoid, digits, B = 1", [0.0] * 5),
    share("exact", "LeNet, sigmoid, digits, B = 2, dropout 0.5", [1.0, 0.0, 0.0]),
    share("exact", "wide <net>, digits, B = 1", [0.0] * 3),
    Row("ideal attacker: images exact", "wide <net>, digits, B = 1", 0.0, "share"),
    Row("processor seconds an update", "slow, digits, B = 1", 3.0, "s"),
    share("exact", "no batch", [1.0]),
]


def test_the_attack_that_recovers_most_counts_and_only_a_ceiling_of_none_withstands() -> None:
    assert _map.squares(ROWS) == {
        ("LeNet, sigmoid, digits", "B = 1"): Square("recovered", 1.0, 5),
        ("LeNet, sigmoid, digits", "B = 2, dropout 0.5"): Square("undecided", 1 / 3, 3),
        ("wide <net>, digits", "B = 1"): Square("withstood", 0.0, 3),
    }


def test_a_square_has_a_letter_and_a_count_and_the_picture_a_sentence() -> None:
    picture = ET.fromstring(_map.draw(ROWS, "toy"))
    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"R  5 of 5", "U  1 of 3", "W  0 of 3", "wide <net>, digits", "B = 2, dropout 0.5"} <= set(texts)
    (title,) = picture.iter("{http://www.w3.org/2000/svg}title")
    assert title.text == "toy: of 3 squares 1 recovered, 1 undecided, 1 withstood"


def test_batches_stand_in_order_of_their_size() -> None:
    rows = [share("exact", f"MLP, B = {size}", [1.0]) for size in ("16", "4", "4, dropout 0.5")]
    picture = ET.fromstring(_map.draw(rows, "toy"))
    texts = [element.text or "" for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert [text for text in texts if text.startswith("B = ")] == ["B = 4", "B = 4, dropout 0.5", "B = 16"]


def test_letters_stand_out_from_their_squares() -> None:
    """Contrast of WCAG 2.1 for large or bold text, 3 to 1."""

    def luminance(colour: str) -> float:
        channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for _, paper, ink in _map._LOOKS.values():
        dark, light = sorted((luminance(paper), luminance(ink)))
        assert (light + 0.05) / (dark + 0.05) >= 3.0


def test_results_without_exact_images_are_refused() -> None:
    with pytest.raises(FedsimError, match="nothing to draw"):
        _map.draw(ROWS[5:], "toy")


def test_pictures_show_what_the_results_say() -> None:
    differ = [file.name for file, picture in _figures.maps() if file.read_text(encoding="utf-8") != picture]
    assert differ == [], "make figures"
