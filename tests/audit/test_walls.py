"""Pictures of an audit: few, each with its score, and the same images with and without a defense."""

import numpy as np
import pytest

from fedsim.audit import walls
from fedsim.record.policy import Policy
from tests.audit.findings import inspection, record


def test_at_most_eight_pictures_stand_in_a_row_each_with_its_score() -> None:
    many = inspection(3, of=walls.MOST + 2)
    victims = tuple(own.model_copy(update={"arrays": f"b/{number}"}) for number, own in enumerate(many.victims))
    names = [f"{own.arrays}/{kind}" for own in victims for kind in ("guesses", "originals")]
    arrays = {name: np.full((1, 1, 4, 4), 0.5) for name in names}
    found = record(Policy(), inspections=(many.model_copy(update={"victims": victims}),))
    (wall,) = walls.of_updates(found, arrays)
    assert wall.note.startswith(f"The first {walls.MOST} of {walls.MOST + 2} attacked images.")
    originals, guesses = wall.rows
    assert len(originals.cells) == len(guesses.cells) == walls.MOST
    assert [own.is_recovered for own in guesses.cells] == [True] * 3 + [False] * (walls.MOST - 3)
    assert guesses.cells[0].alt.startswith("Guess of update 1, image 1: ")
    assert originals.cells[0].alt == "Original of update 1, image 1"
    assert list(walls.of_updates(found, {})) == []


@pytest.mark.parametrize(("channels", "expected"), [(1, [0.2, 0.2, 0.2]), (2, [0.2, 0.2, 0.2]), (3, [0.2, 1.0, 0.0])])
def test_pictures_are_grey_unless_they_have_three_channels(channels: int, expected: list[float]) -> None:
    image = np.array([0.2, 7.0, np.nan])[:channels, None, None] * np.ones((channels, 2, 2))
    assert walls.in_colour(image)[0, 0].tolist() == expected
