"""Sentence embedding: a model maps a text to a vector, near those of texts with the same meaning.

Examples have no labels (all are 0), so a component such as `esimcse` defines the clients' loss. Test metric: Spearman's
rank correlation between the cosines of pairs of test sentences and their human similarity ratings, in [-1, 1].
Paper of the test: Cer et al. 2017, arXiv 1708.00055.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import torch
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.registry import task
from fedsim.core.types import Config, Dataset
from fedsim.core.types.tasks import Model
from fedsim.metrics.testing import test_spearman
from fedsim.tasks.core.fitting import refuses_inputs
from fedsim.tasks.core.sentences import TextTask


@final
@task("sentence-embedding", summary="a vector for every text, near the vectors of similar texts", related="1708.00055")
class SentenceEmbedding(TextTask[Config]):
    """Sentence vectors, trained without labels."""

    eval_batch_size: ClassVar[int] = 16
    has_labels: ClassVar[bool] = False

    def refuses(self, data: Dataset) -> str | None:
        """Return why examples are not tokens, or test sentences have no similarity ratings, or None."""
        if data.similarities is None:
            return "it needs pairs of test sentences that people compared"
        return refuses_inputs(data, tokens=True)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Raise, since the task has no loss without labels.

        Raises:
            FedsimError: always.
        """
        raise FedsimError("sentences without labels have no loss: a component must define the clients' loss.")

    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        """Return the rank correlation of cosines of test sentences with their human ratings."""
        assert data.similarities is not None, "refused otherwise"
        outputs = torch.cat([self.outputs(model, batch, {}) for batch in data.test.split(self.eval_batch_size)])
        return {"test_spearman": test_spearman(outputs, data.similarities)}
