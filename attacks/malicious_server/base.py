"""Base class of attacks that recover examples from units crafted by a malicious server."""

from __future__ import annotations

from typing import ClassVar

from fedsim.core.hooks import BatchSeparationAttack, Effort, Tables
from fedsim.core.types.configured import ConfigT


class CraftedUnitsAttack(BatchSeparationAttack[ConfigT]):
    """Recovers examples from crafted units. Its example is a digit and an MLP with biases, ReLU and dropout."""

    effort: ClassVar[Effort] = "algebra"
    crafts_model: ClassVar[bool] = True
    example: ClassVar[Tables] = {
        "model": {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.25, "bias": True, "activation": "relu"}
    }
