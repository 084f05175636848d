"""What a scenario says of an attack beside its settings, written as it was read."""

import pytest

from fedsim.scenario.choices import AttackChoice


def test_settings_stand_beside_the_name_and_are_written_there() -> None:
    raw = {"name": "dia", "max_iterations": 5, "also_knows": ("masks",), "label": "mine", "seconds": None}
    own = AttackChoice.model_validate(raw)
    assert (own.settings, own.label, own.also_knows) == ({"max_iterations": 5}, "mine", ("masks",))
    assert own.model_dump() == raw
    assert AttackChoice.model_validate(own.model_dump()) == own


@pytest.mark.parametrize(("name", "crafts"), [("trap-weights", True), ("dlg", False)])
def test_some_attacks_change_the_model(name: str, crafts: bool) -> None:
    assert AttackChoice(name=name).crafts_model is crafts
