"""Masked diffusion: a language model fills in tokens that were masked at a rate of their own in each text.

    p = (1 - e) t + e, t uniform in [0, 1); each place of the answer is masked with probability p
    loss = 1 / (p n) * sum over the masked places of -log softmax(outputs)_token, then the mean over the examples

n is the number of places of the answer: those with a label; others are the prompt, which is never masked. The weight
1 / p makes it an upper bound on -log Pr(answer | prompt) / n (Nie et al. 2025, arXiv 2502.09992). Rates and masked
places are hidden draws of a step. Tested are the share of masked tokens that are guessed, and the same bound with the
number of masked places drawn uniformly in place of t, whose variance is lower.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.losses import IGNORED
from fedsim.core.registry import task
from fedsim.core.types import Batch, Config, Dataset, Draws, InputSpec, Knowledge
from fedsim.core.types.tasks import Model
from fedsim.metrics.testing import test_accuracy, test_loss
from fedsim.tasks.core.fitting import refuses_words
from fedsim.tasks.core.sentences import TextTask

_SEVERAL_ANSWERS = 4  # dimensions of outputs (B, M, T, V)


class MaskedDiffusionConfig(Config):
    """Settings of masked diffusion."""

    least_rate: float = Field(default=1e-3, gt=0, lt=1, description="e, the smallest masking rate")
    stratified: bool = Field(
        default=False, description="whether the t of a batch's B examples are u + b / B mod 1: a lower variance"
    )
    drawn_in_tests: int = Field(default=4, ge=1, description="draws of masked places for each test example")


@final
@task("masked-diffusion", summary="the masked tokens of a text, at every masking rate", paper="2502.09992")
class MaskedDiffusion(TextTask[MaskedDiffusionConfig]):
    """Cross-entropy of masked tokens, weighted by one over the rate."""

    at_once: ClassVar[int] = 64
    labels_are_inputs: ClassVar[bool] = True
    knowable: ClassVar[frozenset[Knowledge]] = frozenset()

    def refuses(self, data: Dataset) -> str | None:
        """Say whether examples are no tokens with one label each, or labels are no tokens."""
        return refuses_words(data)

    def output_shape(self, labels: Tensor, spec: InputSpec) -> tuple[int, ...]:
        """Return one score for each token at each place."""
        return (*labels.shape, spec.classes)

    def draw(self, batch: Batch, generator: torch.Generator) -> Draws:
        """Draw the masking rate (B,) of each text, and which places of its answer are masked (B, T)."""
        count, least = len(batch), self.config.least_rate
        if self.config.stratified:
            t = (torch.rand(1, generator=generator) + torch.arange(count) / count) % 1
        else:
            t = torch.rand(count, generator=generator)
        rate = (1 - least) * t + least
        masked = torch.rand(batch.labels.shape, generator=generator) < rate[:, None]
        return {"rate": rate, "masked": masked & _answers(batch)}

    def outputs(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        """Run the model on the texts with their masked places: those drawn, or all of the answer, as at a rate of 1."""
        given = {**batch.given, "masked": draws["masked"] if draws else _answers(batch)}
        try:
            return model(batch.inputs, **given)
        except TypeError as error:
            if "'masked'" not in str(error):
                raise
            raise FedsimError(
                "task 'masked-diffusion': the model has no mask token, since its forward takes no argument 'masked'. "
                'Choose a model that fills in masked places, for example model.name = "tiny-llada".'
            ) from error

    def targets(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the token of each place and its weight in the loss, shape (B, T, 2).

        Tokens are those of the inputs, as labels of texts may be the next ones. Where nothing is masked the token is
        the one that losses leave out. Without draws every place of the answer counts, as at a rate of 1.
        """
        answers = _answers(batch)
        masked = draws["masked"] if draws else answers
        rate = draws["rate"] if draws else torch.ones(len(batch))
        tokens = batch.inputs.masked_fill(~masked, IGNORED).to(rate.dtype)
        weights = masked / (rate * answers.sum(1).clamp_min(1))[:, None]
        return torch.stack((tokens, weights.to(rate.dtype)), -1)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each text's weighted cross-entropy; 0 where nothing was masked."""
        if outputs.dim() == _SEVERAL_ANSWERS:
            each = self.losses(outputs.flatten(0, 1), targets.repeat_interleave(outputs.shape[1], 0))
            return each.view(-1, outputs.shape[1]).mean(1)
        tokens, weights = targets[..., 0].long(), targets[..., 1]
        each = F.cross_entropy(outputs.flatten(0, 1), tokens.flatten(), reduction="none", ignore_index=IGNORED)
        return (each.view(tokens.shape) * weights).sum(1)

    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        """Return accuracy of masked tokens, and the bound in nats a token, on the test set."""
        guessed: list[Tensor] = []
        tokens: list[Tensor] = []
        bounds: list[Tensor] = []
        for batch in data.test.split(self.at_once):
            for _ in range(self.config.drawn_in_tests):
                masked = _evenly_masked(batch, generator)
                outputs = self.outputs(model, batch, {"masked": masked})
                wanted = batch.inputs.masked_fill(~masked, IGNORED)
                each = F.cross_entropy(outputs.mT, wanted, reduction="none", ignore_index=IGNORED)
                bounds.append(each.sum(1) / masked.sum(1).clamp_min(1))
                guessed.append(outputs.argmax(-1)[masked])
                tokens.append(batch.inputs[masked])
        accuracy = test_accuracy(torch.cat(guessed), torch.cat(tokens))
        return {"test_accuracy": accuracy, "test_loss": test_loss(torch.cat(bounds))}


def _answers(batch: Batch) -> Tensor:
    """Return which places belong to the answer, shape (B, T): those with a label."""
    return batch.labels != IGNORED


def _evenly_masked(batch: Batch, generator: torch.Generator) -> Tensor:
    """Mask l places of each answer, l uniform in 1 to all of them, shape (B, T)."""
    answers = _answers(batch)
    order = torch.rand(answers.shape, generator=generator).masked_fill(~answers, torch.inf).argsort(1).argsort(1)
    most = answers.sum(1)
    count = 1 + (torch.rand(len(batch), generator=generator) * most).long().minimum(most - 1)
    return (order < count[:, None]) & answers
