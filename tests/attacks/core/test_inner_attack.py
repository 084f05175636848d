"""An attack that another one names is made with its settings, or refused in a sentence."""

import pytest

from attacks.core.inner_attack import inner_attack
from fedsim.core.errors import FedsimError


def test_it_is_made_with_its_settings_and_told_its_name() -> None:
    made = inner_attack("round-averaging", "dlg", {"restarts": 3})
    assert made.name == "dlg"
    assert made.config.restarts == 3


def test_wrong_settings_are_named_with_both_attacks() -> None:
    with pytest.raises(FedsimError, match=r"attack 'step-by-step': settings of 'dlg': (?s:.*)nonsense"):
        inner_attack("step-by-step", "dlg", {"nonsense": 1})


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(FedsimError, match="dlg"):
        inner_attack("step-by-step", "dlgg", {})
