"""Convert an update of several local steps to the mean gradient."""

from __future__ import annotations

from dataclasses import replace

from fedsim.core.types import Observation


def gradient_weight(observation: Observation) -> float:
    """Return the factor from the mean gradient of the local steps to the update.

    1 for a gradient, else the step size times the number of steps. With momentum m each step counts 1 + m + m^2 + ...,
    with a term for the step itself and for every later step.
    """
    if observation.update.kind == "gradient":
        return 1.0
    momentum, steps = observation.optimizer_settings.get("momentum", 0.0), observation.local_steps
    return observation.learning_rate * sum(momentum**age for step in range(steps) for age in range(step + 1))


def as_gradient(observation: Observation) -> Observation:
    """Return the observation with the mean gradient of its local steps as the update, D / (step size times K)."""
    weight = gradient_weight(observation)
    tensors = {name: tensor / weight for name, tensor in observation.update.tensors.items()}
    return replace(observation, update=replace(observation.update, kind="gradient", tensors=tensors))
