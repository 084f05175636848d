"""Visual question answering: a model receives an image and a question, and generates the answer.

    loss = mean over the answer's tokens t, its end included, of -log softmax(outputs_t)_token(t), then over examples

The question is `given["question"]`, which has no loss. Labels are the answer's tokens; each is predicted from the true
previous tokens (teacher forcing). Test metrics: the share of answers with all tokens correct under teacher forcing, the
mean loss, and the mean number of visual tokens per layer of the language model. Guesses are scored by MSE, PSNR and
SSIM of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import ClassVar, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.nets import losses
from fedsim.core.nets.visual import Passed, can_read_images, visual_passes
from fedsim.core.registry import task
from fedsim.core.types import Batch, Dataset, Draws, Knowledge, Reconstruction, Truth
from fedsim.core.types.tasks import Model, Scored, Shown
from fedsim.metrics.image import to_pixels
from fedsim.metrics.missing import complete
from fedsim.metrics.testing import test_accuracy, test_loss
from fedsim.tasks.core.classes import ClassTask
from fedsim.tasks.core.fitting import QUESTION, lacks_argument, refuses_classes, refuses_inputs
from fedsim.tasks.core.images import score_images

_BLIND = (
    "the model has no image tokens before a question, since its forward has no argument 'question'. Choose a "
    'vision-language model, for example model.name = "tiny-vlm"'
)
READ_QUESTION, READ_ANSWER = "visual-question-answering.question", "visual-question-answering.answer"
_FILLER = 0  # replaces padding of the answer; no counted position attends to it


@final
@task("visual-question-answering", summary="the answer to a question about an image", related="2304.08485")
class VisualQuestionAnswering(ClassTask):
    """Cross-entropy of an answer's tokens."""

    eval_batch_size: ClassVar[int] = 128
    knowable: ClassVar[frozenset[Knowledge]] = frozenset({"labels", "input-statistics"})

    def refuses(self, data: Dataset) -> str | None:
        """Return why examples are not images with a question and a token answer each, or None."""
        why = refuses_inputs(data, tokens=False) or refuses_classes(data, of_tokens=True)
        if why is not None or QUESTION in data.train.extra_inputs:
            return why
        return f"it needs a question for each image, and the data set has no '{QUESTION}'"

    def refuses_model(self, model: nn.Module) -> str | None:
        """Return why the model has no question argument, or None."""
        return _BLIND if lacks_argument(model, QUESTION) else None

    def outputs(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        """Return logits at every position that predicts a token of the answer, (B, A, V)."""
        try:
            return model(batch.inputs, **batch.extra_inputs, answer=_drop_last_token(batch.labels))
        except TypeError as error:
            if f"'{QUESTION}'" not in str(error):
                raise
            raise FedsimError(f"task 'visual-question-answering': {_BLIND}.") from error

    def tell(self, model: nn.Module, given: Mapping[str, Tensor], labels: Tensor | None) -> None:
        """Set the model's default question and, if granted, its answer."""
        if can_read_images(model) and QUESTION in given:
            model.dialogue = (given[QUESTION].clone(), None if labels is None else _drop_last_token(labels))

    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        """Return the share of answers that are entirely correct, the loss, and the visual tokens of a layer."""
        losses: list[Tensor] = []
        right: list[Tensor] = []
        with _visual_passes(model) as passes:
            for batch in data.test.split(self.eval_batch_size):
                outputs = self.outputs(model, batch, {})
                losses.append(self.losses(outputs, batch.labels))
                right.append(are_right(outputs.argmax(-1), batch.labels))
        whole = torch.cat(right)
        return {
            "test_accuracy": test_accuracy(whole, torch.ones_like(whole)),
            "test_loss": test_loss(torch.cat(losses)),
            **({"visual_tokens": visual_tokens(passes)} if passes else {}),
        }

    def score(self, truth: Truth, examples: Batch, guess: Reconstruction, data: Dataset) -> Scored:
        """Score guesses in pixels, each against the original assigned to it, and the first word of the answer.

        If question and answer were recovered, as `READ_QUESTION` and `READ_ANSWER`, metrics give the share of correct
        texts of each.
        """
        first = replace(examples, labels=examples.labels[:, 0])
        guessed = guess.labels if guess.labels.dim() == 1 else guess.labels[:, 0]
        scored = score_images(truth, first, replace(guess, labels=guessed), data)
        return replace(
            scored,
            guess=complete(guess, len(examples)),
            values={**scored.values, **_read(guess, examples, scored.order)},
        )

    def show(self, inputs: Tensor, data: Dataset) -> Shown:
        """Return the images as pixels."""
        return to_pixels(inputs, data.spec).numpy()


def _read(guess: Reconstruction, examples: Batch, order: Tensor | None) -> dict[str, float]:
    right = dict[str, float]()
    true = (
        ("questions_read", READ_QUESTION, examples.extra_inputs[QUESTION]),
        ("answers_read", READ_ANSWER, examples.labels),
    )
    for name, key, originals in true:
        if key in guess.extras and order is not None:
            right[name] = share_read(guess.extras[key], originals, order)
    return right


@registry.metric(
    "questions_read",
    title="questions read",
    summary="share of the questions of an update that were read in every word",
    over="update",
    form="percent",
    digits=0,
    statistics={"questions_read": "mean"},
)
@registry.metric(
    "answers_read",
    title="answers read",
    summary="share of the answers of an update that were read in every word",
    over="update",
    form="percent",
    digits=0,
    statistics={"answers_read": "mean"},
)
def share_read(guessed: Tensor, originals: Tensor, order: Tensor) -> float:
    """Return the share of originals (B, T) whose assigned guess (N, T') equals them in every word.

    Both are padded with `IGNORED` to the same length.
    """
    wide = max(guessed.shape[1], originals.shape[1])
    answers, padded_originals = (
        F.pad(tokens, (0, wide - tokens.shape[1]), value=losses.IGNORED) for tokens in (guessed, originals)
    )
    alike = [
        place < len(answers) and torch.equal(answers[place], row)
        for place, row in zip(order.tolist(), padded_originals, strict=True)
    ]
    return sum(alike) / len(alike)


@registry.metric(
    "visual_tokens",
    title="visual tokens",
    summary="the same: mean number of visual tokens per layer of the language model",
    over="round",
    better="lower",
    digits=1,
    limits=(0.0, None),
)
def visual_tokens(passes: Sequence[Passed]) -> float:
    """Return the mean over examples and layers of the language model of the number of visual tokens."""
    counts = [count for passed in passes for layer in passed.visual for count in layer]
    return sum(counts) / len(counts)


def _visual_passes(model: Model) -> AbstractContextManager[list[Passed]]:
    """Record the visual tokens of each forward pass; nothing for a model that does not tell them."""
    is_reader = isinstance(model, nn.Module) and can_read_images(model)
    return visual_passes(cast("nn.Module", model)) if is_reader else nullcontext(list[Passed]())


def _drop_last_token(labels: Tensor) -> Tensor:
    """Return the answer's tokens except the last, which predicts no token."""
    said = labels[:, :-1]
    return said.where(said != losses.IGNORED, _FILLER)


def are_right(guessed: Tensor, labels: Tensor) -> Tensor:
    """Return which answers (B, A) are correct in every token that is not ignored."""
    return ((guessed == labels) | (labels == losses.IGNORED)).all(1)
