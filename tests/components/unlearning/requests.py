"""A federation that is one number: its loss on an example x is (w - x)^2 / 2, and a gradient is w less a mean."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedsim.core.hooks import Part
from fedsim.core.types import Batch, Tensors, Truth, Update, View

RATE = 0.25


@dataclass(frozen=True)
class Simple:
    """A request by one client, who owns 1, 4 and 7, to forget the last; another client owns 2."""

    view: View = "single-update"
    rounds: int = 1
    watched_rounds: tuple[int, ...] = (1,)
    rate: float = RATE
    forgotten: int = 1

    def own(self, part: Part) -> Tensor:
        return {"all": torch.tensor([1.0, 4, 7]), "rest": torch.tensor([1.0, 4]), "forgotten": torch.tensor([7.0])}[
            part
        ]

    def examples(self, part: Part) -> int:
        return len(self.own(part)) + 1

    def weights(self, round_: int) -> Tensors:
        return self._trained(round_, "all")

    def retrained_weights(self, round_: int) -> Tensors:
        return self._trained(round_, "rest")

    def update(self, round_: int, weights: Tensors, part: Part) -> tuple[Update, Truth]:
        own = self.own(part)
        loss = float((weights["w"] - own).square().mean()) / 2
        sent = Update("gradient", {"w": weights["w"] - own.mean()}, {}, len(own), loss)
        batch = Batch(own, torch.zeros(len(own), dtype=torch.long))
        return sent, Truth((batch,), ((),), sent, (batch,))

    def _trained(self, round_: int, part: Part) -> Tensors:
        """The mean of everybody's examples draws the weight by the rate in each round."""
        mean = torch.cat((self.own(part), torch.tensor([2.0]))).mean()
        return {"w": mean + (10 - mean) * (1 - RATE) ** (round_ - 1)}
