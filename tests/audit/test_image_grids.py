"""Pictures of an audit: few, each with its score, and the same images with and without a defense."""

import numpy as np
import pytest

from fedsim.audit import image_grids, verdict
from fedsim.judgement.policy import Policy
from fedsim.report.image_grid import MOST, pixels_of
from tests.audit.findings import attacked, of_victims, record


def test_at_most_eight_pictures_stand_in_a_row_each_with_its_score() -> None:
    many = attacked(3, of=MOST + 2)
    victims = tuple(own.model_copy(update={"arrays": f"b/{number}"}) for number, own in enumerate(many.victims))
    names = [f"{own.arrays}/{kind}" for own in victims for kind in ("guesses", "originals")]
    arrays = {name: np.full((1, 1, 4, 4), 0.5) for name in names}
    found = record(Policy(), client=(of_victims(victims),))
    (wall,) = image_grids.update_grids(found, arrays)
    assert wall.note.startswith(f"The first {MOST} of {MOST + 2} attacked images.")
    originals, guesses = wall.rows
    assert len(originals.cells) == len(guesses.cells) == MOST
    assert [bool(own.level) for own in guesses.cells] == [True] * 3 + [False] * (MOST - 3)
    assert guesses.cells[0].alt.startswith("Guess of update 1, image 1: ")
    assert originals.cells[0].alt == "Original of update 1, image 1"
    assert list(image_grids.update_grids(found, {})) == []


def test_the_first_wall_is_of_the_batch_size_that_the_answer_names_first() -> None:
    client = (
        attacked(0, 4, arrays="1"),
        attacked(0, 4, batch=4, converged=False, arrays="4"),
        attacked(3, 4, batch=16, arrays="16"),
        attacked(4, batch=32, arrays="32"),
    )
    arrays = {f"{arm.batch_size}/guesses": np.full((1, 1, 4, 4), 0.5) for arm in client}
    found = record(Policy(), client=client)
    assert verdict.answer(found).sentence.startswith("Updates of 16 and 32 images")
    assert [wall.title for wall in image_grids.update_grids(found, arrays)] == [
        f"batch {size}" for size in (16, 1, 4, 32)
    ]
    closed = record(Policy(), client=client[1::-1])
    assert [wall.title for wall in image_grids.update_grids(closed, arrays)] == ["batch 4", "batch 1"]
    assert list(image_grids.update_grids(record(Policy()), arrays)) == []


def test_an_image_that_is_known_as_a_whole_is_words_and_no_white_square() -> None:
    victims = [one.model_copy(update={"arrays": "b/1"}) for one in attacked(1, of=1).victims]
    arrays = {f"b/1/{kind}": np.full((2, 1, 4, 4), 1.0) for kind in ("guesses", "originals", "known")}
    arrays["b/1/known"][1, 0, 2, 2] = 0.5
    (wall,) = image_grids.update_grids(record(Policy(), client=(of_victims(victims),)), arrays)
    whole, part = wall.rows[-1].cells
    assert (whole.pixels, whole.text) == (None, "every pixel")
    assert part.pixels is not None


@pytest.mark.parametrize(("channels", "expected"), [(1, [0.2, 0.2, 0.2]), (2, [0.2, 0.2, 0.2]), (3, [0.2, 1.0, 0.0])])
def test_pictures_are_grey_unless_they_have_three_channels(channels: int, expected: list[float]) -> None:
    image = np.array([0.2, 7.0, np.nan])[:channels, None, None] * np.ones((channels, 2, 2))
    pixels = pixels_of({"guesses": image[None]}, "guesses", 0)
    assert pixels[0, 0].tolist() == expected


def test_rows_of_a_table_are_no_pictures() -> None:
    victims = [own.model_copy(update={"arrays": "batch 1/1"}) for own in attacked(1, of=1).victims]
    rows = {f"batch 1/1/{kind}": np.full((1, 6), 0.5) for kind in ("guesses", "originals", "known")}
    assert list(image_grids.update_grids(record(Policy(), client=(of_victims(victims),)), rows)) == []
