"""What is inferred of a question is scored beside what is granted."""

import pytest

from benchmarks import inferred_questions as own
from benchmarks._victims import send_update, world_of
from fedsim.core import registry
from fedsim.scenario.example import example_of


@pytest.fixture(scope="module")
def world():
    """A client that asks for a list of two digits."""
    tables = example_of(registry.get("attack", "question-readout"))
    assert tables is not None
    return world_of(tables)


def test_an_inferred_question_costs_the_image_nothing(world) -> None:
    inferred, granted = own.found_in(send_update(world))
    assert inferred.values["questions_read"] == inferred.values["answers_read"] == 1.0
    assert inferred.scores[0].values["psnr"] == granted.scores[0].values["psnr"] > 60


def test_at_the_true_image_the_order_is_found(world) -> None:
    rows = {(row.name, row.setting): row for row in own.frozen_rows("all", world, 1)}
    assert rows["questions read", "all, true image (control)"].value == 1
    assert rows["orders of the words", "all"].value == 12  # of three words in a question that is filled up
