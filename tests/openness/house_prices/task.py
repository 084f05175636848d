"""House price: a model says a number for every row of a table.

    loss = (output - label)^2, the mean over the rows

Tested is the root mean squared error. A guessed row is scored by the mean absolute error of its columns.
"""

from collections.abc import Mapping
from typing import ClassVar, final

import torch
from torch import Tensor

from fedsim.core.hooks import Task
from fedsim.core.registry import task
from fedsim.core.types import Batch, Config, Dataset, InputSpec, Modality, Reconstruction, Truth
from fedsim.core.types.tasks import Model, Scored
from fedsim.record import ItemScore
from house_prices.metrics import price_error, row_error


@final
@task("house-price", summary="a number for every row of a table")
class HousePrice(Task[Config]):
    """Squared error of numbers."""

    modality: ClassVar[Modality] = "numbers"

    def refuses(self, data: Dataset) -> str | None:
        """Say whether labels are no numbers."""
        return None if data.train.labels.is_floating_point() else "it needs numbers as labels"

    def output_shape(self, labels: Tensor, spec: InputSpec) -> tuple[int, ...]:
        """Return one number a row."""
        return (len(labels), 1)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each row's squared error."""
        return (outputs[:, 0] - targets).square()

    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        """Return the error of prices."""
        outputs, prices = self.answer(model, data.test, {})
        return {"price_error": price_error(outputs[:, 0], prices)}

    def score(self, truth: Truth, examples: Batch, guess: Reconstruction, data: Dataset) -> Scored:
        """Compare rows in their order: this package's attack guesses one."""
        errors = row_error(guess.inputs, examples.inputs).tolist()
        items = tuple(ItemScore(index=i, values={"row_error": error}) for i, error in enumerate(errors))
        return Scored(items, order=torch.arange(len(items)))
