"""Methods by name, with their settings beside it, written as they were read."""

import copy
from typing import ClassVar

import pytest

from fedsim.core import registry
from fedsim.core.registry import Kind
from fedsim.core.types import Config
from fedsim.scenario.choices import AttackChoice, Choice, Settled, choices_in


def test_settings_stand_beside_the_name_and_are_written_there() -> None:
    raw = {"name": "dia", "max_iterations": 5, "also_knows": ("masks",), "label": "mine", "seconds": None}
    own = AttackChoice.model_validate(raw)
    assert (own.settings, own.label, own.also_knows) == ({"max_iterations": 5}, "mine", ("masks",))
    assert own.model_dump() == raw
    assert AttackChoice.model_validate(own.model_dump()) == own


def test_what_is_made_knows_the_name_under_which_it_was_chosen() -> None:
    assert Choice(name="dia", settings={"max_iterations": 5}).make("attack").name == "dia"
    attack = Choice(name="dropout-inversion", settings={"max_iterations": 5}).make("attack")
    assert (attack.name, attack.config.max_iterations) == ("dropout-inversion", 5)


def test_settings_that_were_checked_are_not_checked_again_and_other_ones_are() -> None:
    config = registry.get("attack", "dlg").config.model_validate({"max_iterations": 5})
    checked = Choice(name="dlg").model_copy(update={"settings": Settled(config)})
    assert copy.deepcopy(checked) == Choice(name="dlg", settings=config.model_dump(mode="json"))
    assert checked.make("attack").config is config
    changed = checked.model_copy(update={"settings": {**checked.settings, "max_iterations": 6}})
    assert changed.make("attack").config.max_iterations == 6
    assert Choice.model_validate_json(checked.model_dump_json()).make("attack").config == config


@pytest.mark.parametrize(("name", "crafts"), [("trap-weights", True), ("dlg", False)])
def test_some_attacks_change_the_model(name: str, crafts: bool) -> None:
    assert AttackChoice(name=name).crafts is crafts


class Decoder(Choice):
    """A choice that says its kind."""

    kind: ClassVar[Kind | None] = "component"


class Inner(Config):
    """A table within another one."""

    several: tuple[Decoder, ...] = ()
    plain: Choice = Choice(name="a")


class Outer(Config):
    """A table of choices and tables."""

    inner: Inner = Inner()
    rows: tuple[Inner, ...] = ()
    decoder: Decoder = Decoder(name="b")


def test_choices_of_a_table_that_say_their_kind_are_found_with_their_place() -> None:
    several = Decoder(name="c"), Decoder(name="d")
    table = Outer(inner=Inner(several=several), rows=(Inner(several=(Decoder(name="e"),)),))
    assert [(place, own.name) for place, own in choices_in(table)] == [
        (("inner", "several", 0), "c"),
        (("inner", "several", 1), "d"),
        (("rows", 0, "several", 0), "e"),
        (("decoder",), "b"),
    ]
    assert next(choices_in(table, ("generation",)))[0] == ("generation", "inner", "several", 0)
