"""Findings on the answers that a decoder writes to questions about images: right answers and hallucinated objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from fedsim.core.nets.losses import IGNORED
from fedsim.core.registry import metric
from fedsim.core.types import Generated, Tokenizer
from fedsim.metrics.statistics import wilson
from fedsim.record import Finding, Interval

_ABSENT, _PRESENT = "no", "yes"


@metric(
    "written_accuracy",
    title="answers right",
    summary="share of the written answers that equal the true answer in every word",
    over="finding",
    is_success_count=True,
    form="percent",
    digits=0,
    limits=(0.0, 1.0),
)
@metric(
    "hallucination_rate",
    title="hallucinated",
    summary="share of the questions for an absent object whose written answer is yes",
    related="2305.10355",
    over="finding",
    is_success_count=True,
    form="percent",
    digits=0,
    better="lower",
    limits=(0.0, 1.0),
)
def share_of_prompts(hits: Sequence[bool], prompts: Sequence[int], confidence: float = 0.95) -> Interval:
    """Return the mean over prompts of the share of hits among the texts of a prompt, with Wilson's interval.

    Args:
        hits: one boolean per text.
        prompts: index of the prompt of each text; texts of one prompt are dependent.
        confidence: coverage of the interval.
    """
    names = sorted(set(prompts))
    of_each = {name: [hit for hit, prompt in zip(hits, prompts, strict=True) if prompt == name] for name in names}
    shares = [sum(own) / len(own) for own in of_each.values()]
    return wilson(min(sum(shares), len(names)), len(names), confidence)


def judge_answers(
    texts: Sequence[Generated], prompts: Sequence[int], answers: Tensor, tokenizer: Tokenizer, confidence: float
) -> Iterator[Finding]:
    """Yield the share of right answers, and the share of hallucinations if some questions ask for an absent object.

    Args:
        texts: written answers.
        prompts: index of the prompt of each text.
        answers: tokens of the true answer of each prompt, with the end token, padded with `IGNORED`, shape (P, A).
        tokenizer: spells `yes` and `no`.
        confidence: coverage of the intervals.
    """
    written = [_words(text.tokens, tokenizer) for text in texts]
    true = [_words(answers[prompt].tolist(), tokenizer) for prompt in prompts]
    right = [own == answer for own, answer in zip(written, true, strict=True)]
    yield _context("answers right", "written_accuracy", share_of_prompts(right, prompts, confidence))
    absent = [place for place, answer in enumerate(true) if answer == (_ABSENT,)]
    if absent:
        hits, of = [written[place] == (_PRESENT,) for place in absent], [prompts[place] for place in absent]
        yield _context("objects hallucinated", "hallucination_rate", share_of_prompts(hits, of, confidence))


def _words(tokens: Sequence[int], tokenizer: Tokenizer) -> tuple[str, ...]:
    """Return the words before the end token."""
    read = [token for token in tokens if token != IGNORED]
    if tokenizer.end in read:
        read = read[: read.index(tokenizer.end)]
    return tuple(tokenizer.decode([token]) for token in read)


def _context(label: str, name: str, value: Interval) -> Finding:
    return Finding(
        question="generation",
        label=label,
        scope={"question": "prompt", "view": "outputs"},
        role="context",
        metric=name,
        value=value,
    )
