"""A method with its settings knows the name under which it was chosen."""

from fedsim.core.types import Config
from fedsim.core.types.configured import ANYTHING, IMAGES, IMAGES_AND_TEXT, ConfiguredMethod


class Own(ConfiguredMethod[Config]):
    """Does nothing."""


def test_it_is_called_by_its_class_until_somebody_chooses_it_by_name() -> None:
    own = Own(Config())
    assert own.name == "Own"
    assert own.with_name("my-method") is own
    assert own.name == "my-method"
    assert Own(Config()).name == "Own"


def test_it_works_on_images_unless_it_says_more_and_remembers_nothing() -> None:
    assert (Own.modalities, Own.keeps_state) == (IMAGES, False)
    assert IMAGES < IMAGES_AND_TEXT < ANYTHING
