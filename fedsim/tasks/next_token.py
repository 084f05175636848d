"""Next tokens: a language model predicts the next token at every token of a text.

    loss = mean over the tokens t of -log softmax(outputs_t)_token(t + 1), then over the examples

Labels are the inputs one token later, so an attacker with granted labels has the text. Padding of a short example is
ignored. Long and short examples have the same weight. Test metrics: the accuracy of next tokens and the mean loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import torch

from fedsim.core.registry import task
from fedsim.core.types import Config, Dataset, Knowledge
from fedsim.core.types.tasks import Model
from fedsim.tasks.core.classes import ClassTask, token_answers
from fedsim.tasks.core.fitting import refuses_words
from fedsim.tasks.core.sentences import TextTask


@final
@task("next-token", summary="the next token at every token of a text")
class NextToken(TextTask[Config], ClassTask):
    """Cross-entropy of next tokens."""

    eval_batch_size: ClassVar[int] = 16
    labels_are_inputs: ClassVar[bool] = True
    knowable: ClassVar[frozenset[Knowledge]] = frozenset()

    def refuses(self, data: Dataset) -> str | None:
        """Return why examples are not tokens with token labels, or None."""
        return refuses_words(data)

    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        """Return accuracy and loss of next tokens on the test set."""
        answers = token_answers(self, model, data)
        return {"test_accuracy": answers.accuracy, "test_loss": answers.loss}
