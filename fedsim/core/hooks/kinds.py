"""Base classes of components, and the function that runs each kind after training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedsim.core.hooks.components import (
    Adapter,
    Augmentation,
    Bottleneck,
    Component,
    Hook,
    Layer,
    LossTerm,
    Objective,
    Optimizer,
    TokenReducer,
)
from fedsim.core.hooks.generation import Decoder, Mitigation, Sampler, Unmasker
from fedsim.core.hooks.probes import Probe
from fedsim.core.hooks.unlearning import Unlearning

KINDS_OF_COMPONENTS: tuple[type[Component[Any]], ...] = (
    Adapter,
    Augmentation,
    Bottleneck,
    Decoder,
    Layer,
    LossTerm,
    Mitigation,
    Objective,
    Optimizer,
    Probe,
    Sampler,
    TokenReducer,
    Unlearning,
    Unmasker,
)
"""Base classes of components that are run: by a client, when building its model, or as listed in `RUN_AFTERWARDS`."""


RUN_AFTERWARDS: Mapping[Hook, str] = {
    "decoder": "fedsim.generation.generate",
    "mitigation": "fedsim.generation.veil",
    "probe": "fedsim.generation.probe",
    "sampler": "fedsim.generation.sample",
    "unlearning": "the table [unlearning]",
    "unmasker": "fedsim.generation.generate",
}
"""Functions that run the components of a trained model, by hook."""
