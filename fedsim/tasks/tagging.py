"""Tagging: a model predicts one of K tags for every token of a text.

    loss = mean over the tokens t of -log softmax(outputs_t)_tag(t), then over the examples

Tokens without a tag (all but the first of a word, and padding) are ignored. Test metrics: if tags mark spans in the
IOB2 scheme, the micro F1 of whole spans, then the accuracy of tags and the mean loss.
Paper of the scheme: Tjong Kim Sang, De Meulder 2003, arXiv cs/0306050.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import torch

from fedsim.core.registry import task
from fedsim.core.types import Config, Dataset, Knowledge
from fedsim.core.types.tasks import Model
from fedsim.metrics.tagging import are_spans
from fedsim.metrics.testing import test_span_f1
from fedsim.tasks.core.classes import ClassTask, token_answers
from fedsim.tasks.core.fitting import refuses_classes, refuses_inputs
from fedsim.tasks.core.sentences import TextTask


@final
@task("tagging", summary="a tag for every token of a text", related="cs/0306050")
class Tagging(TextTask[Config], ClassTask):
    """Cross-entropy of tags."""

    eval_batch_size: ClassVar[int] = 16
    knowable: ClassVar[frozenset[Knowledge]] = frozenset()

    def refuses(self, data: Dataset) -> str | None:
        """Return why examples are not tokens with a label each, or None."""
        return refuses_inputs(data, tokens=True) or refuses_classes(data, of_tokens=True)

    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        """Return the F1 of spans if tags mark spans, accuracy and loss on the test set."""
        answers = token_answers(self, model, data)
        tested = {"test_accuracy": answers.accuracy, "test_loss": answers.loss}
        if not are_spans(data.class_names):
            return tested
        return {"test_span_f1": test_span_f1(answers.guesses, data.test.labels, data.class_names), **tested}
