"""Base class of text tasks: score and show guessed sentences."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fedsim.core.types import Batch, Dataset, Modality, Reconstruction, Truth
from fedsim.core.types.configured import ConfigT
from fedsim.core.types.tasks import Scored, Shown, Task
from fedsim.metrics.text import EVERY_WORD, is_every_word, score_sentences, score_words

READ_WORDS = "text.words"  # tokens recovered with certainty, at unknown positions, shape (K,)


class TextTask(Task[ConfigT]):
    """Base class of tasks on tokens, to be combined with a class for the type of labels."""

    modality: ClassVar[Modality] = "text"
    noun: ClassVar[str] = "sentence"

    def score(self, truth: Truth, examples: Batch, guess: Reconstruction, data: Dataset) -> Scored:
        """Score guesses against the sentences assigned to them, and the set of their words.

        If words were recovered with certainty, as `READ_WORDS`, a flag says whether they are exactly the words of the
        batch.
        """
        assert data.tokenizer is not None, "data sets of text have a vocabulary"
        planted = [secret.span for secret in data.planted_secrets]
        sentences = score_sentences(guess, examples, data.tokenizer, planted).sentences
        values = score_words(guess, examples, data.tokenizer)
        if READ_WORDS in guess.extras:
            values[EVERY_WORD] = float(is_every_word(guess.extras[READ_WORDS], examples, data.tokenizer))
        return Scored(items=sentences, values=values)

    def show(self, inputs: Tensor, data: Dataset) -> Shown:
        """Return the text of each example; negative tokens are padding."""
        assert data.tokenizer is not None, "data sets of text have a vocabulary"
        rows = ([token for token in row if token >= 0] for row in inputs.tolist())
        return tuple(map(data.tokenizer.decode, rows))
