"""Methods by name, with their settings beside it, written as they were read."""

import pytest

from fedsim.scenario.choices import AttackChoice, Choice


def test_settings_stand_beside_the_name_and_are_written_there() -> None:
    raw = {"name": "dia", "max_iterations": 5, "also_knows": ("masks",), "label": "mine"}
    own = AttackChoice.model_validate(raw)
    assert (own.settings, own.label, own.also_knows) == ({"max_iterations": 5}, "mine", ("masks",))
    assert own.model_dump() == raw
    assert AttackChoice.model_validate(own.model_dump()) == own


def test_what_is_made_knows_the_name_under_which_it_was_chosen() -> None:
    assert Choice(name="dia", settings={"max_iterations": 5}).make("attack").name == "dia"
    attack = Choice(name="dropout-inversion", settings={"max_iterations": 5}).make("attack")
    assert (attack.name, attack.config.max_iterations) == ("dropout-inversion", 5)


@pytest.mark.parametrize(("name", "crafts"), [("trap-weights", True), ("dlg", False)])
def test_some_attacks_change_the_model(name: str, crafts: bool) -> None:
    assert AttackChoice(name=name).crafts is crafts
