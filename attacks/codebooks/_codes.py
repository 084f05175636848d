"""Shared codebook gradients: lookup and precondition of all attacks on codebooks."""

from __future__ import annotations

from torch import Tensor

from attacks.core.preconditions import one_gradient_only
from fedsim.components.bottleneck.codebook import codebooks
from fedsim.core.types import Observation


def why_no_codes(observation: Observation) -> str | None:
    """Return why no codes can be recovered from the observation, or None if they can."""
    if not codebooks(observation.model):
        return "the model has no codebook"
    if not code_gradients(observation):
        return "the gradient of no codebook is shared"
    return one_gradient_only(observation)


def code_gradients(observation: Observation) -> dict[str, Tensor]:
    """Return the shared codebook gradients, keyed by the module name of the codebook."""
    sent, names = observation.update.tensors, {id(p): name for name, p in observation.model.named_parameters()}
    code_names = {place: names[id(layer.codes)] for place, layer in codebooks(observation.model).items()}
    return {place: sent[name] for place, name in code_names.items() if name in sent}
