"""Create the inner attack that another attack names in its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Attack


def inner_attack(outer: str, name: str, options: Mapping[str, Any]) -> Attack[Any]:
    """Return the attack of a name with its settings; the attack knows its own name.

    Args:
        outer: name of the outer attack, for messages.
        name: name of the attack to create.
        options: its settings.

    Raises:
        FedsimError: no attack has this name, or its settings are invalid.
    """
    method = registry.get("attack", name, Attack)
    try:
        return method.make(method.config.model_validate(options)).with_name(method.name)
    except ValueError as error:
        raise FedsimError(f"attack '{outer}': settings of '{method.name}': {error}") from error
