"""Base class of attacks that recover examples from units crafted by a malicious server."""

from __future__ import annotations

from typing import ClassVar

from attacks.core.outlooks import outlook_of
from fedsim.core.hooks import BatchSeparationAttack, CostEstimate, Effort, Tables
from fedsim.core.types import Observation
from fedsim.core.types.configured import ConfigT


class CraftedUnitsAttack(BatchSeparationAttack[ConfigT]):
    """Recovers examples from crafted units. Its example is a digit and an MLP with biases, ReLU and dropout.

    Attributes:
        chance: probability that units isolate all examples of a batch.
    """

    chance: ClassVar[float] = 0.5
    effort: ClassVar[Effort] = "algebra"
    crafts_model: ClassVar[bool] = True
    example: ClassVar[Tables] = {
        "model": {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.25, "bias": True, "activation": "relu"}
    }

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect one reading of the crafted layer, and trials of the model for masks and labels."""
        return outlook_of(observation, 30.0, self.chance, "crafted units isolate examples")
