"""Settings are frozen, and unknown keys are refused."""

import pytest
from pydantic import Field, ValidationError

from fedsim.core.settings import Config, change_default


class Own(Config):
    scale: float = 1.0


def test_settings_do_not_change_and_hold_nothing_else() -> None:
    own = Own(scale=2.0)
    with pytest.raises(ValidationError, match="frozen"):
        own.scale = 3.0  # type: ignore[misc]
    with pytest.raises(ValidationError, match="scael"):
        Own.model_validate({"scael": 2.0})


class Bounded(Config):
    rate: float = Field(default=0.1, gt=0, le=2, description="step, in units of the input")
    steps: int = Field(default=3, ge=1, description="number of steps")
    names: tuple[str, ...] = Field(default=("a",), min_length=1, description="layers")


class Faster(Bounded):
    rate: float = change_default(Bounded, rate=0.5)
    names: tuple[str, ...] = change_default(Bounded, names=("b", "c"))


def test_a_changed_default_keeps_text_order_and_bounds_and_leaves_the_base_class_alone() -> None:
    assert Faster() == Faster(rate=0.5, steps=3, names=("b", "c"))
    assert Bounded() == Bounded(rate=0.1, steps=3, names=("a",))
    of = {cls: {name: (field.description, field.metadata) for name, field in cls.model_fields.items()}
          for cls in (Bounded, Faster)}  # fmt: skip
    assert of[Faster] == of[Bounded]
    assert list(of[Faster]) == ["rate", "steps", "names"]
    assert Faster(rate=2.0).rate == 2.0
    for name, value in (("rate", 0.0), ("rate", 2.1), ("names", ())):
        with pytest.raises(ValidationError, match=name):
            Faster.model_validate({name: value})


def test_one_field_of_the_base_class_is_changed_at_a_time() -> None:
    with pytest.raises(KeyError, match="raet"):
        change_default(Bounded, raet=1.0)
    with pytest.raises(ValueError, match="unpack"):
        change_default(Bounded, rate=1.0, steps=2)
