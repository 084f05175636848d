"""Division: one row behind the gradient of a linear layer with a bias is the quotient of its two gradients.

    dL/dW = (dL/db) x^T,  so  x = (dL/dW)_i / (dL/db)_i  for any output i with a gradient

Recovers one row exactly, or the row with its noise where a component added some.
"""

from typing import ClassVar, final

import torch
from pydantic import Field

from fedsim.core.hooks import Attack
from fedsim.core.hooks.attacks import Effort
from fedsim.core.registry import attack
from fedsim.core.types import Config, Modality, Observation, OnStep, Reconstruction, Step
from house_prices.component import Jittered


class DivisionConfig(Config):
    """Settings of division."""

    shrinkage: float = Field(default=0.0, ge=0, le=1, description="share by which the guess is drawn to the mean, 0")


@final
@attack("division", summary="divides the gradients of a linear layer")
class Division(Attack[DivisionConfig]):
    """Reads one row."""

    effort: ClassVar[Effort] = "algebra"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"numbers"})

    def not_applicable(self, observation: Observation) -> str | None:
        """Say whether the batch has more than one row."""
        return None if observation.batch_size == 1 else "needs a batch of one row"

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Divide at the output with the largest gradient."""
        names = [name for name, _ in observation.model.named_parameters()]
        weight, bias = (observation.update.tensors[name] for name in names[:2])
        place = int(bias.abs().argmax())
        row = (1.0 - self.config.shrinkage) * (weight[place] / bias[place])[None]
        on_step(Step(0, 1, 1, 0.0, 0.0, row))
        notes = [f"the row has noise of {known.scale:g}" for known in observation.effects(Jittered)]
        return Reconstruction.of(row, objective=0.0, iterations=1, notes=notes, is_exact=not notes)
