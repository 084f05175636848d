"""Contrastive: a model maps two views of an example near each other, and far from views of other examples.

    loss = -log(exp(s_ij / t) / sum over k != i of exp(s_ik / t)), s the cosine of two embeddings, j the partner of i

then the mean over the views. A batch of B examples has 2 B views, each labelled by the index of its pair. Batches are
sampled by pairs, so a client's share must contain both views of a pair; audits ensure that. Test metric: how often the
nearest other embedding is the partner's. Guesses are scored as images or rows, each view separately.
Paper of the loss: Chen et al. 2020, arXiv 2002.05709.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedsim.core.registry import task
from fedsim.core.types import Config, Dataset, InputSpec, LabelKind
from fedsim.core.types.tasks import Model
from fedsim.metrics.testing import test_accuracy
from fedsim.tasks.core.fitting import refuses_inputs
from fedsim.tasks.core.pairing import partners_in
from fedsim.tasks.core.targets import TargetScore, TargetTask

_NAME = "contrastive"


class ContrastiveConfig(Config):
    """Settings of the loss."""

    temperature: float = Field(default=0.5, gt=0, description="t, by which cosines are divided")


@final
@task(_NAME, summary="two views of an image or row near each other", paper="2002.05709")
class Contrastive(TargetTask[ContrastiveConfig]):
    """Cross-entropy of the partner among all other views."""

    label_kind: ClassVar[LabelKind] = "numbers"
    accuracy_in_words: ClassVar[str] = "share of views with their partner view as nearest embedding"

    def refuses(self, data: Dataset) -> str | None:
        """Return why the examples are not views in pairs, or None."""
        if data.task != _NAME:
            return "its examples are two views each, which an audit reads of fedsim.audit.Subject(views=...)"
        if not bool((data.train.labels.unique(return_counts=True)[1] == 2).all()):  # noqa: PLR2004 - of a pair
            return "each label is the number of a pair, which two views have"
        return refuses_inputs(data, tokens=False)

    def output_shape(self, labels: Tensor, spec: InputSpec) -> tuple[int, ...]:
        """Return an embedding for each view."""
        return (len(labels), spec.classes)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each view's loss; the negatives are the other views of the batch."""
        return F.cross_entropy(_cosines(outputs) / self.config.temperature, partners_in(targets), reduction="none")

    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        """Return the share of test views whose nearest neighbour is the partner."""
        right = self.right(self.outputs_of(model, data), data.test.labels, data)
        return {"test_accuracy": test_accuracy(right, torch.ones_like(right))}

    def right(self, outputs: Tensor, labels: Tensor, data: Dataset) -> Tensor:
        """Return whether the partner is nearest, 0 or 1 for each view."""
        return (_cosines(outputs).argmax(1) == partners_in(labels)).double()

    def usual_answer(self, data: Dataset) -> Tensor:
        """Return a constant embedding."""
        return torch.zeros(1, data.spec.classes)

    def target_score(self, data: Dataset) -> TargetScore:
        """Return a scorer without metrics: the index of a pair has no information on an example."""
        return _no_score


def _cosines(outputs: Tensor) -> Tensor:
    """Return the cosines of all pairs of embeddings, shape (B, B), with -inf on the diagonal."""
    directions = F.normalize(outputs.flatten(1), dim=1)
    itself = torch.eye(len(outputs), dtype=torch.bool, device=outputs.device)
    return (directions @ directions.T).masked_fill(itself, -torch.inf)


def _no_score(guess: Tensor, target: Tensor) -> Mapping[str, float]:
    return {}
