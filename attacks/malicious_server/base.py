"""What attacks declare alike that read examples off units which a malicious server wrote into the model."""

from __future__ import annotations

from typing import ClassVar

from fedsim.core.hooks import Effort, SeparatingAttack, Tables
from fedsim.core.types.configured import ConfigT


class CraftedUnitsAttack(SeparatingAttack[ConfigT]):
    """Reads examples off crafted units. Its example is a digit and an MLP with biases, ReLU and dropout."""

    effort: ClassVar[Effort] = "algebra"
    crafts: ClassVar[bool] = True
    example: ClassVar[Tables] = {
        "model": {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.25, "bias": True, "activation": "relu"}
    }
