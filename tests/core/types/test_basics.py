"""Settings are frozen, and unknown keys are refused."""

import pytest
from pydantic import ValidationError

from fedsim.core.types import Config


class Own(Config):
    scale: float = 1.0


def test_settings_do_not_change_and_hold_nothing_else() -> None:
    own = Own(scale=2.0)
    with pytest.raises(ValidationError, match="frozen"):
        own.scale = 3.0  # type: ignore[misc]
    with pytest.raises(ValidationError, match="scael"):
        Own.model_validate({"scael": 2.0})
