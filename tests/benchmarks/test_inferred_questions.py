"""What is inferred of a question is scored beside what is granted."""

import pytest

from benchmarks import inferred_questions as own
from fedsim.core import registry
from fedsim.scenario import parse
from fedsim.scenario import world as worlds
from fedsim.scenario.example import example_of


@pytest.fixture(scope="module")
def world():
    """A client that asks for a list of two digits."""
    tables = example_of(registry.get("attack", "question-readout"))
    assert tables is not None
    return worlds.build(parse(dict(tables), "test"))


def test_an_inferred_question_costs_the_image_nothing(world) -> None:
    inferred, granted = own.found_in(own.sent_by(world, 0))
    assert inferred.values["questions_read"] == inferred.values["answers_read"] == 1.0
    assert inferred.scores[0].values["psnr"] == granted.scores[0].values["psnr"] > 60


def test_at_the_true_image_the_order_is_found(world) -> None:
    rows = {(row.name, row.setting): row for row in own.frozen_rows("all", world, 1)}
    assert rows["questions read", "all, true image (control)"].value == 1
    assert rows["orders of the words", "all"].value == 12  # of three words in a question that is filled up
