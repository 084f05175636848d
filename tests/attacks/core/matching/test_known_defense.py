"""Attacks that know the defenses: what they need, and settings that spend a given number of gradients."""

import pytest

from attacks.core.matching.known_defense import InformedAttack
from fedsim.core import registry
from fedsim.core.hooks import Attack

ATTACKS = registry.methods("attack", Attack).items()
NAMES = [n for n, own in ATTACKS if isinstance(own.make, type) and issubclass(own.make, InformedAttack)]


@pytest.mark.parametrize("name", NAMES)
def test_it_needs_the_defenses_and_its_budget_is_a_setting(name: str) -> None:
    method = registry.get("attack", name)
    assert "defenses" in method.make.needs
    config = method.config.model_validate(method.make.settings_for_budget(7))
    assert (config.max_iterations, config.schedule, config.sign) == (7, "cosine", "soft")
