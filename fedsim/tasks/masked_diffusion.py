"""Masked diffusion: a language model predicts tokens that are masked at a random rate in each text.

    p = (1 - e) t + e, t uniform in [0, 1); each position of the answer is masked with probability p
    loss = 1 / (p n) * sum over the masked positions of -log softmax(outputs)_token, then the mean over the examples

n is the number of positions of the answer, which have a label; the other positions are the prompt, which is never
masked. With the weight 1 / p the loss is an upper bound on -log Pr(answer | prompt) / n (Nie et al. 2025, arXiv
2502.09992). Rates and masked positions are hidden draws of a step. Test metrics: accuracy of masked tokens, and the
same bound with a uniform number of masked positions instead of t, which has a lower variance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.nets.losses import IGNORED
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

    eval_batch_size: ClassVar[int] = 64
    labels_are_inputs: ClassVar[bool] = True
    knowable: ClassVar[frozenset[Knowledge]] = frozenset()

    def refuses(self, data: Dataset) -> str | None:
        """Return why examples are not tokens with token labels, or None."""
        return refuses_words(data)

    def output_shape(self, labels: Tensor, spec: InputSpec) -> tuple[int, ...]:
        """Return the shape (B, T, V) of logits."""
        return (*labels.shape, spec.classes)

    def draw(self, batch: Batch, generator: torch.Generator) -> Draws:
        """Sample the masking rate (B,) of each text, and the masked positions of its answer (B, T)."""
        count, least = len(batch), self.config.least_rate
        if self.config.stratified:
            t = (torch.rand(1, generator=generator) + torch.arange(count) / count) % 1
        else:
            t = torch.rand(count, generator=generator)
        rate = (1 - least) * t + least
        masked = torch.rand(batch.labels.shape, generator=generator) < rate[:, None]
        return {"rate": rate, "masked": masked & _answers(batch)}

    def outputs(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        """Run the model on the masked texts; without draws, all positions of the answer are masked."""
        given = {**batch.extra_inputs, "masked": draws["masked"] if draws else _answers(batch)}
        try:
            return model(batch.inputs, **given)
        except TypeError as error:
            if "'masked'" not in str(error):
                raise
            raise FedsimError(
                "task 'masked-diffusion': the model has no mask token, since its forward has no argument 'masked'. "
                'Choose a model that fills in masked places, for example model.name = "tiny-llada".'
            ) from error

    def targets(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the token of each position and its weight in the loss, shape (B, T, 2).

        Tokens come from the inputs, since labels of texts may be next tokens. Unmasked positions have the ignored
        label.
        Without draws all positions of the answer count, as at a rate of 1.
        """
        answers = _answers(batch)
        masked = draws["masked"] if draws else answers
        rate = draws["rate"] if draws else torch.ones(len(batch))
        tokens = batch.inputs.masked_fill(~masked, IGNORED).to(rate.dtype)
        weights = masked / (rate * answers.sum(1).clamp_min(1))[:, None]
        return torch.stack((tokens, weights.to(rate.dtype)), -1)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each text's weighted cross-entropy; 0 for a text without masked positions."""
        if outputs.dim() == _SEVERAL_ANSWERS:
            token_losses = self.losses(outputs.flatten(0, 1), targets.repeat_interleave(outputs.shape[1], 0))
            return token_losses.view(-1, outputs.shape[1]).mean(1)
        tokens, weights = targets[..., 0].long(), targets[..., 1]
        token_losses = F.cross_entropy(outputs.flatten(0, 1), tokens.flatten(), reduction="none", ignore_index=IGNORED)
        return (token_losses.view(tokens.shape) * weights).sum(1)

    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        """Return the accuracy of masked tokens, and the bound in nats per token, on the test set."""
        guessed: list[Tensor] = []
        tokens: list[Tensor] = []
        bounds: list[Tensor] = []
        for batch in data.test.split(self.eval_batch_size):
            for _ in range(self.config.drawn_in_tests):
                masked = _evenly_masked(batch, generator)
                outputs = self.outputs(model, batch, {"masked": masked})
                wanted = batch.inputs.masked_fill(~masked, IGNORED)
                losses = F.cross_entropy(outputs.mT, wanted, reduction="none", ignore_index=IGNORED)
                bounds.append(losses.sum(1) / masked.sum(1).clamp_min(1))
                guessed.append(outputs.argmax(-1)[masked])
                tokens.append(batch.inputs[masked])
        accuracy = test_accuracy(torch.cat(guessed), torch.cat(tokens))
        return {"test_accuracy": accuracy, "test_loss": test_loss(torch.cat(bounds))}


def _answers(batch: Batch) -> Tensor:
    """Return which positions belong to the answer, shape (B, T): positions with a label."""
    return batch.labels != IGNORED


def _evenly_masked(batch: Batch, generator: torch.Generator) -> Tensor:
    """Mask l random positions of each answer, l uniform from 1 to their number, shape (B, T)."""
    answers = _answers(batch)
    order = torch.rand(answers.shape, generator=generator).masked_fill(~answers, torch.inf).argsort(1).argsort(1)
    largest = answers.sum(1)
    count = 1 + (torch.rand(len(batch), generator=generator) * largest).long().minimum(largest - 1)
    return (order < count[:, None]) & answers
