"""Methods by name: made with their settings, and found in the tables that hold them."""

import copy
from typing import ClassVar

from fedsim.core import registry
from fedsim.core.choices import Choice, ResolvedSettings, choices_in
from fedsim.core.registry import Kind
from fedsim.core.types import Config


def test_what_is_made_knows_the_name_under_which_it_was_chosen() -> None:
    assert Choice(name="dia", settings={"max_iterations": 5}).make("attack").name == "dia"
    attack = Choice(name="dropout-inversion", settings={"max_iterations": 5}).make("attack")
    assert (attack.name, attack.config.max_iterations) == ("dropout-inversion", 5)


def test_settings_that_were_checked_are_not_checked_again_and_other_ones_are() -> None:
    config = registry.get("attack", "dlg").config.model_validate({"max_iterations": 5})
    checked = Choice(name="dlg").model_copy(update={"settings": ResolvedSettings(config)})
    assert copy.deepcopy(checked) == Choice(name="dlg", settings=config.model_dump(mode="json"))
    assert checked.make("attack").config is config
    changed = checked.model_copy(update={"settings": {**checked.settings, "max_iterations": 6}})
    assert changed.make("attack").config.max_iterations == 6
    assert Choice.model_validate_json(checked.model_dump_json()).make("attack").config == config


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
