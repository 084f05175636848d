"""Frozen dataclasses and types without logic, from a client's data to an attacker's guess.

Exceptions are the base classes of methods and of tasks, because an observation contains its task.
"""

from fedsim.core.grants import GRANTS, Grant, Knowledge, Server, View
from fedsim.core.settings import Config, change_default
from fedsim.core.types.basics import Draws, Loss, Masks, Memory, Tensors
from fedsim.core.types.data import (
    Attribute,
    Batch,
    Dataset,
    InputSpec,
    LabelHead,
    LabelKind,
    Modality,
    Planted,
    PlantedImage,
    SecretKind,
    Similarities,
    Tokenizer,
    slice_heads,
)
from fedsim.core.types.effects import Effect
from fedsim.core.types.generation import (
    Activations,
    Ending,
    Event,
    Generated,
    Limits,
    Trace,
    TraceObservation,
    TraceView,
)
from fedsim.core.types.guesses import NO_LABEL, Applicability, OnStep, Reconstruction, Step
from fedsim.core.types.observations import MethodDescription, Observation, ThreatModel
from fedsim.core.types.privacy import Adjacency, Mechanism, Unit
from fedsim.core.types.updates import Contribution, DropoutSite, Truth, Update, WireEntry

__all__ = [
    "GRANTS",
    "NO_LABEL",
    "Activations",
    "Adjacency",
    "Applicability",
    "Attribute",
    "Batch",
    "Config",
    "Contribution",
    "Dataset",
    "Draws",
    "DropoutSite",
    "Effect",
    "Ending",
    "Event",
    "Generated",
    "Grant",
    "InputSpec",
    "Knowledge",
    "LabelHead",
    "LabelKind",
    "Limits",
    "Loss",
    "Masks",
    "Mechanism",
    "Memory",
    "MethodDescription",
    "Modality",
    "Observation",
    "OnStep",
    "Planted",
    "PlantedImage",
    "Reconstruction",
    "SecretKind",
    "Server",
    "Similarities",
    "Step",
    "Tensors",
    "ThreatModel",
    "Tokenizer",
    "Trace",
    "TraceObservation",
    "TraceView",
    "Truth",
    "Unit",
    "Update",
    "View",
    "WireEntry",
    "change_default",
    "slice_heads",
]
