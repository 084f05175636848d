"""Code lines that add the recommended defense to a user's Flower app (as a mod) and to the next audit."""

from __future__ import annotations

from typing import Any

from fedsim.audit.record import AuditArm
from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.federation.mods import as_mod


def adoption_lines(arm: AuditArm) -> tuple[str, ...]:
    """Return the code lines that add an arm's defense to a Flower app, and the line for the next audit.

    If the defense cannot be a mod, a comment line states the reason. Empty if the defense is not installed.
    """
    name = arm.defense
    if name not in registry.entries("defense"):
        return ()
    settings = _changed_settings(name, arm.settings)
    table = ", ".join(f'"{key}": {value!r}' for key, value in {"name": name, **settings}.items())
    return (*_as_mod(name, settings), f"Subject(model, loss, loader, defenses=({{{table}}},))".replace("'", '"'))


def _as_mod(name: str, settings: dict[str, Any]) -> tuple[str, ...]:
    if "applies" in registry.get("defense", name).config.model_fields:
        settings = {**settings, "applies": "per_update"}
    try:
        as_mod(name, **settings)
    except FedsimError as reason:
        return (f"# no mod: {reason}",)
    words = ", ".join([repr(name), *(f"{key}={value!r}" for key, value in settings.items())]).replace("'", '"')
    return (
        "from flwr.clientapp import ClientApp",
        "from fedsim.federation.mods import as_mod",
        f"app = ClientApp(mods=[as_mod({words})])",
    )


def _changed_settings(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that are not defaults."""
    usual = registry.get("defense", name).config().model_dump(mode="json")
    return {key: value for key, value in settings.items() if value != usual.get(key) and value is not None}
