"""Preconditions of attacks on an update: the reason why it does not fit, or None."""

from __future__ import annotations

from fedsim.core.types import Observation


def one_gradient_only(observation: Observation) -> str | None:
    """Return why an attack that matches a single gradient does not apply, or None."""
    if observation.local_steps > 1:
        return f"the update holds {observation.local_steps} local steps; this attack matches a single gradient"
    return gradient_steps_only(observation)


def gradient_steps_only(observation: Observation) -> str | None:
    """Return why the update is not a sum of gradients with known weights, or None."""
    if observation.update.kind == "gradient":
        return None
    name, steps = observation.optimizer, observation.local_steps
    taken = "one step" if steps == 1 else f"{steps} steps"
    if name != "sgd":
        return f"the update is {taken} of '{name}', which is no sum of gradients; this attack knows 'sgd' only"
    if observation.is_resumed and observation.optimizer_settings.get("momentum"):
        return f"the update is {taken} of 'sgd' that went on with the unknown velocity of an earlier round"
    return None
