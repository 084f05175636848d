"""Settings are frozen, unknown keys are refused, and old names work with a warning."""

from typing import ClassVar

import pytest
from pydantic import ValidationError

from fedsim.core.types import Config


class Own(Config):
    old_names: ClassVar[dict[str, str]] = {"strength": "scale"}
    scale: float = 1.0


def test_settings_do_not_change_and_hold_nothing_else() -> None:
    own = Own(scale=2.0)
    with pytest.raises(ValidationError, match="frozen"):
        own.scale = 3.0  # type: ignore[misc]
    with pytest.raises(ValidationError, match="scael"):
        Own.model_validate({"scael": 2.0})


def test_an_old_name_is_taken_for_the_new_one() -> None:
    raw = {"strength": 4.0}
    with pytest.warns(FutureWarning, match="the setting 'strength' is now called 'scale'"):
        assert Own.model_validate(raw).scale == 4.0
    assert raw == {"strength": 4.0}
    with pytest.raises(ValidationError, match="strength"):
        Own.model_validate({"strength": 4.0, "scale": 2.0})
