"""Generation study: a model generates texts for four questions, and attacks analyse their traces.

The study works on a model alone, without a federation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.core import seeding
from fedsim.core.hooks import Decoder, GenerationInputs, Unmasker
from fedsim.core.types import Generated, Limits, Tensors, Tokenizer
from fedsim.generation import Piece, generate, stream
from fedsim.metrics.exposure import log_perplexities
from fedsim.questions.generation.metrics import prompt_accuracy, secret_extraction_rate, trace_auc, trace_exposure
from fedsim.questions.generation.side_channels import (
    GeneratedTexts,
    ScoringOptions,
    TraceInquiry,
    about,
    controls,
    judge,
    negative_control,
)
from fedsim.questions.generation.types import TraceQuestion
from fedsim.record import Finding

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class SecretWithDecoys:
    """A secret and alternative values of its form.

    Attributes:
        text: the whole sentence.
        known_prefix: tokens of the prefix, known to the attacker.
        wholes: tokens of the sentence for each value, the secret first.
        halves: for each value: the prefix and the first half of the value.
        is_planted: whether the training text contains the secret.
        space: number of possible values of the form.
    """

    text: str
    known_prefix: Tokens
    wholes: tuple[Tokens, ...]
    halves: tuple[Tokens, ...]
    is_planted: bool
    space: int


@dataclass(frozen=True)
class StudyInputs:
    """Prompts of a generation study.

    Attributes:
        prompts: prompts of questions prompt and bits.
        extra_inputs: further model inputs of each prompt, e.g. an image.
        texts_per_prompt: number of texts per prompt.
        members: sentences of the training.
        strangers: as many sentences outside the training.
        length: number of tokens of a sentence that are used as prompt.
        secrets: secrets of question planted.
    """

    prompts: tuple[Tokens, ...] = ()
    extra_inputs: Tensors = field(default_factory=dict[str, Tensor])
    texts_per_prompt: int = 6
    members: tuple[Tokens, ...] = ()
    non_members: tuple[Tokens, ...] = ()
    length: int = 8
    secrets: tuple[SecretWithDecoys, ...] = ()


@dataclass(frozen=True)
class TextGenerator:
    """A model with its decoder.

    Attributes:
        model: model in evaluation mode.
        decoder: decoder or unmasker of the model.
        tokenizer: tokenizer of the model.
        limits: stopping criteria of a text.
        seed: seed of all random draws.
    """

    model: nn.Module
    decoder: Decoder[Any, Any] | Unmasker[Any, Any]
    tokenizer: Tokenizer
    limits: Limits
    seed: int = 0

    def write(self, prompts: Sequence[Tokens], purpose: str, given: Tensors | None = None) -> list[Generated]:
        """Generate a text for each prompt with its further inputs, each with its own seed.

        The prompts are processed in random order: texts of one step share its duration, and a machine may slow down.
        """
        shuffle = seeding.generator(self.seed, f"order of writing {purpose}")
        order = torch.randperm(len(prompts), generator=shuffle)
        sources = seeding.generators(self.seed, f"generation {purpose}", [(number,) for number in order.tolist()])
        with_each = {name: rows[order] for name, rows in (given or {}).items()}
        condition = GenerationInputs(tuple(prompts[number] for number in order.tolist()), with_each)
        with seeding.isolate_randomness(seeding.derive(self.seed, "generation")):  # some models are random in eval mode
            texts = generate(self.decoder, self.model, condition, self.limits, sources, tokenizer=self.tokenizer)
        return [texts[place] for place in order.argsort().tolist()]

    def begin(self, prompt: Tokens, purpose: str, given: Tensors | None = None) -> Piece:
        """Return the first piece of a completion: tokens, or the reason of an empty completion."""
        condition = GenerationInputs((prompt,), given or {})
        sources = seeding.generators(self.seed, f"generation {purpose}", [(0,)])
        with seeding.isolate_randomness(seeding.derive(self.seed, "generation")):
            return next(stream(self.decoder, self.model, condition, self.limits, sources, tokenizer=self.tokenizer))

    def speech(self, question: TraceQuestion, material: StudyInputs) -> GeneratedTexts:
        """Generate the texts of a question.

        For question prompt the attacker requests two thirds of the texts itself; for question member it knows the label
        of every other text.
        """
        if question == "member":
            groups = (material.members, material.non_members)
            prompts = [prompt[: material.length] for alike in groups for prompt in alike]
            truth = [int(alike is material.members) for alike in groups for _ in alike]
            known = [place % 2 == 0 for alike in groups for place in range(len(alike))]
            return GeneratedTexts(question, tuple(self.write(prompts, question)), tuple(truth), tuple(known))
        if question == "planted":
            prompts = [half for secret in material.secrets for half in secret.halves]
            truth = [number for number, secret in enumerate(material.secrets) for _ in secret.halves]
            first = tuple(place == 0 for secret in material.secrets for place in range(len(secret.halves)))
            return GeneratedTexts(
                question, tuple(self.write(prompts, question)), tuple(truth), (False,) * len(truth), first
            )
        numbers = [number for number in range(len(material.prompts)) for _ in range(material.texts_per_prompt)]
        given = {name: rows[numbers] for name, rows in material.extra_inputs.items()}
        texts = self.write([material.prompts[number] for number in numbers], "prompt", given)
        is_asked = [place < round(material.texts_per_prompt * 2 / 3) for place in range(material.texts_per_prompt)]
        known = is_asked * len(material.prompts) if question == "prompt" else [False] * len(numbers)
        return GeneratedTexts(question, tuple(texts), tuple(numbers), tuple(known))


@dataclass(frozen=True)
class Study:
    """The texts of each question, and the findings."""

    speeches: tuple[GeneratedTexts, ...]
    findings: tuple[Finding, ...]


def study(
    speaker: TextGenerator,
    material: StudyInputs,
    inquiries: Sequence[tuple[TraceQuestion, TraceInquiry]],
    judging: ScoringOptions,
) -> Study:
    """Generate the texts of all questions, and run every attack, followed by its controls.

    Args:
        speaker: model and decoder.
        material: the prompts.
        inquiries: pairs of a question and an attack.
        judging: settings of the findings.
    """
    speeches: dict[TraceQuestion, GeneratedTexts] = {}
    planted = replace(material, secrets=tuple(secret for secret in material.secrets if secret.is_planted))
    never_planted = replace(material, secrets=tuple(secret for secret in material.secrets if not secret.is_planted))
    asks_secrets = never_planted.secrets and any(question == "planted" for question, _ in inquiries)
    strange = speaker.speech("planted", never_planted) if asks_secrets else None
    findings: list[Finding] = []
    controlled: set[tuple[TraceQuestion, str]] = set()
    for question, inquiry in inquiries:
        if question not in speeches:
            speeches[question] = _speech(speaker, question, planted, speeches)
            findings += references(speaker, material, question, judging)
            if question == "prompt" and not material.extra_inputs:
                findings.append(_infer_by_likelihood(speaker, material, speeches[question], judging))
        findings.append(judge(speeches[question], inquiry, judging))
        if (question, inquiry.attack.name) not in controlled:
            controlled.add((question, inquiry.attack.name))
            findings += controls(speeches[question], inquiry, judging)
            if question == "planted" and strange is not None:
                findings.append(negative_control(strange, inquiry, judging, "never planted"))
    return Study((*speeches.values(), *([strange] if strange is not None else [])), tuple(findings))


def references(
    speaker: TextGenerator, material: StudyInputs, question: TraceQuestion, judging: ScoringOptions
) -> Iterator[Finding]:
    """Yield references without a trace: the model's loss of candidates and secrets, and generated secrets."""
    if question == "member":
        yield _score_by_loss(speaker, material, judging)
    if question != "planted":
        return
    if any(secret.is_planted for secret in material.secrets):
        yield _rank_secrets(speaker, [secret for secret in material.secrets if secret.is_planted], judging)
    texts = speaker.write([secret.known_prefix for secret in material.secrets], "written")
    for is_planted in (True, False):
        pairs = [
            (secret, text)
            for secret, text in zip(material.secrets, texts, strict=True)
            if secret.is_planted == is_planted
        ]
        if not pairs:
            continue
        written = [
            speaker.tokenizer.decode([*secret.known_prefix, *text.tokens]).startswith(secret.text)
            for secret, text in pairs
        ]
        yield _reference(
            question,
            "written by the decoder" if is_planted else "written, though never planted",
            "outputs",
            "attack" if is_planted else "negative-control",
            metric="secret_extraction_rate",
            value=secret_extraction_rate(written, judging.confidence),
            chance_level=float(np.mean([1 / secret.space for secret, _ in pairs])),
        )


def _score_by_loss(speaker: TextGenerator, material: StudyInputs, judging: ScoringOptions) -> Finding:
    sentences = (*material.members, *material.non_members)
    bits = log_perplexities(speaker.model, sentences, speaker.tokenizer).numpy()
    scores = -bits / np.array([len(sentence) - 1 for sentence in sentences])
    draws = np.random.default_rng(seeding.derive(judging.seed, "side channel loss"))
    is_member = np.arange(len(sentences)) < len(material.members)
    return _reference(
        "member",
        "loss of the whole sentence",
        "the model",
        "positive-control",
        metric="trace_auc",
        value=trace_auc(scores, is_member, draws, judging.confidence),
        chance_level=0.5,
    )


def _infer_by_likelihood(
    speaker: TextGenerator, material: StudyInputs, speech: GeneratedTexts, judging: ScoringOptions
) -> Finding:
    """Infer the prompt of each observed text by maximum likelihood under the model."""
    seen = [text.tokens for text, known in zip(speech.texts, speech.is_known, strict=True) if not known]
    prompt_bits = _bits(speaker, material.prompts)
    guesses = [
        int((_bits(speaker, [(*prompt, *text) for prompt in material.prompts]) - prompt_bits).argmin()) for text in seen
    ]
    accuracy = prompt_accuracy(np.array(guesses), speech.seen_truth, judging.confidence)
    return _reference(
        "prompt",
        "likelihood of the text behind each prompt",
        "outputs",
        "positive-control",
        metric="prompt_accuracy",
        value=accuracy,
        chance_level=1 / len(material.prompts),
    )


def _bits(speaker: TextGenerator, sentences: Sequence[Tokens]) -> np.ndarray:
    """Return -log2 of each sentence's probability after its first token; 0 for a single token."""
    bits = np.zeros(len(sentences))
    longer = [place for place, sentence in enumerate(sentences) if len(sentence) > 1]
    if longer:
        scores = log_perplexities(speaker.model, [sentences[place] for place in longer], speaker.tokenizer)
        bits[longer] = scores.numpy()
    return bits


def _rank_secrets(speaker: TextGenerator, secrets: Sequence[SecretWithDecoys], judging: ScoringOptions) -> Finding:
    """Rank planted secrets by the model's log-perplexity."""
    scores = [-log_perplexities(speaker.model, secret.wholes, speaker.tokenizer).numpy() for secret in secrets]
    draws = np.random.default_rng(seeding.derive(judging.seed, "side channel rank"))
    exposure, chance = trace_exposure(np.array(scores), draws, judging.confidence)
    return _reference(
        "planted",
        "log-perplexity of planted sentences",
        "the model",
        "positive-control",
        metric="trace_exposure",
        value=exposure,
        chance_level=chance,
    )


def _reference(question: TraceQuestion, label: str, view: str, role: Any, **figures: Any) -> Finding:
    return Finding(question="generation", label=label, scope=about(question, view), role=role, **figures)


def _speech(
    speaker: TextGenerator, question: TraceQuestion, material: StudyInputs, before: dict[TraceQuestion, GeneratedTexts]
) -> GeneratedTexts:
    """Return the texts of a question; questions prompt and bits share texts."""
    shared = before.get("bits" if question == "prompt" else "prompt") if question in ("prompt", "bits") else None
    if shared is None:
        return speaker.speech(question, material)
    known = tuple(
        question == "prompt" and place % material.texts_per_prompt < round(material.texts_per_prompt * 2 / 3)
        for place in range(len(shared.texts))
    )
    return replace(shared, question=question, is_known=known)
