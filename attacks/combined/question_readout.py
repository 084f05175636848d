"""question-readout: infer question and answer from the embedding's rows of words, then run an image attack with them.

Idea: only input words have a gradient in the embedding, so a withheld question is revealed up to the order of its
    words. The values of the same rows reveal the order, given an image.
Equation: min over orders of 1 - cos(dL/dE(x, question, answer), dL/dE*), E the embedding; x grey, then the
    reconstruction
Assumes: honest-but-curious server, a gradient of a single image; an untied embedding; no word occurs twice in question
    and answer, except padding; no question is granted. `attack` has its own assumptions.
Recovers: question and answer, which need no grant, and the results of `attack` once they are known.
Fails: several questions, whose words are mixed; long texts, which have too many orders; an unrecovered image leaves
    the order a guess. Pruned visual tokens protect nothing, since the words stay in the update.
Source: this project; rows of words: Gupta et al. 2022, arXiv 2205.08514.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any, ClassVar, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.client_gradient import client_gradient
from attacks.core.inner_attack import inner_attack
from attacks.core.preconditions import one_gradient_only
from attacks.core.tolerances import MATCHES
from attacks.text._words import embedding_of, words_of
from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.hooks import Attack, Tables
from fedsim.core.nets.gradients import cosine_distance
from fedsim.core.nets.masks import expected_mask
from fedsim.core.registry import attack
from fedsim.core.types import Config, Observation, OnStep, Reconstruction
from fedsim.models._vision_language import VisionLanguage
from fedsim.tasks.visual_question_answering import READ_ANSWER, READ_QUESTION, VisualQuestionAnswering


class QuestionReadoutConfig(Config):
    """Settings of the read-out."""

    attack: str = Field(default="auto", description="the attack on the image")
    options: dict[str, Any] = Field(default_factory=dict, description="settings of that attack")
    length: int = Field(default=4, ge=1, description="words of a question, padding included")
    filler: int = Field(default=0, ge=0, description="number of the word that fills up short questions")
    brightness: float = Field(default=0.2, description="of the grey image at which orders are compared first")
    max_orders: int = Field(default=1000, ge=1, description="most orders that are compared")


class QuestionText(NamedTuple):
    """A padded question, and an answer without its end token."""

    question: tuple[int, ...]
    answer: tuple[int, ...]


@final
@attack(
    "question-readout",
    summary="question and answer from rows of words, then the image",
    tier="research",
    related="2205.08514",
)
class QuestionReadout(Attack[QuestionReadoutConfig]):
    """Infers the question and answer that an image attack would need as a grant."""

    example: ClassVar[Tables] = {
        "data": {
            "name": "digit-grids",
            "cells": 2,
            "min_digits": 2,
            "max_digits": 2,
            "palette": 0,
            "position": 0,
            "presence": 0,
            "counting": 0,
            "list": 1,
            "train": 20,
            "test": 4,
        },
        "model": {
            "name": "tiny-vlm",
            "encoder_width": 24,
            "encoder_hidden": 16,
            "encoder_blocks": 2,
            "width": 16,
            "hidden": 16,
            "blocks": 2,
        },
        "federation": {"batch_size": 1},
        "threat": {"knows": ["batch-size", "input-statistics"]},
        "attacks": [{"attack": "closed-form-vit"}],
    }

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several examples or steps, models without questions, and embeddings without a gradient."""
        model = observation.model
        if not isinstance(model, VisionLanguage) or not isinstance(observation.task, VisualQuestionAnswering):
            return "the model answers no questions about images"
        if (observation.batch_size or 1) > 1:
            return (
                f"words of {observation.batch_size} questions are mixed in the embedding's rows; the attack "
                "reads a single question"
            )
        name, _ = embedding_of(observation)
        if f"{name}.weight" not in observation.update.tensors:
            return f"the gradient of the embedding '{name}' is not sent"
        try:
            _signs(model, self.config)
        except FedsimError as error:
            return f"the model's questions are whole prompts: {error}"
        return one_gradient_only(observation)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Infer the words, then alternate between their order and the image until the update is explained."""
        inner = self._inner()
        orders = orders_of(observation, self.config)
        image = torch.full((1, *observation.spec.shape), self.config.brightness)
        tried: dict[QuestionText, Reconstruction] = {}
        for _ in range(2):
            text = nearest(observation, orders, image)
            if text in tried:
                break
            tried[text] = inner(_grant_text(observation, text), generator, on_step)
            image = tried[text].inputs
            if tried[text].objective < MATCHES or not len(image):
                break
        text = min(tried, key=lambda candidate: tried[candidate].objective)
        return _report(observation, text, tried[text], len(orders), inner.name)

    def _inner(self) -> Attack[Any]:
        inner = inner_attack("question-readout", self.config.attack, self.config.options)
        if isinstance(inner, QuestionReadout):
            raise NotApplicable("'attack' names this attack itself: set it to another attack")
        return inner


def orders_of(observation: Observation, config: QuestionReadoutConfig) -> list[QuestionText]:
    """Return every possible question and answer from the inferred words.

    Raises:
        NotApplicable: no arrangement exists, or more than `config.max_orders`.
    """
    read = words_of(observation).read
    signs = _signs(observation.model, config)
    words = [] if read is None else [word for word in read.tolist() if word not in signs]
    orders = list[QuestionText]()
    for text in arrange_words(words, config.length, config.filler):
        if len(orders) == config.max_orders:
            raise NotApplicable(
                f"{len(words)} words were read and have more orders than the setting 'max_orders' ({config.max_orders})"
            )
        orders.append(text)
    if not orders:
        raise NotApplicable(f"{len(words)} words were read, too few or too many for a question and an answer")
    return orders


def arrange_words(words: Sequence[int], length: int, filler: int) -> Iterator[QuestionText]:
    """Yield every question of a length and every answer that use each of the words once, except the padding word.

    Args:
        words: inferred words; if they include the padding word, the question is shorter than `length`.
        length: length of a padded question.
        filler: padding word at the end of a short question.
    """
    content = [word for word in words if word != filler]
    for count in range(1, length) if filler in words else (length,):
        for order in permutations(content):
            if count < len(order):
                yield QuestionText((*order[:count], *(filler,) * (length - count)), order[count:])


def _signs(model: Any, config: QuestionReadoutConfig) -> set[int]:
    """Return the words that the model adds around every question."""
    parts = model.laid_out(torch.full((1, config.length), config.filler))
    return {int(sign) for part in parts for sign in part.flatten()} - {config.filler}


def nearest(observation: Observation, orders: Sequence[QuestionText], image: Tensor) -> QuestionText:
    """Return the text with the smallest embedding gradient distance; of equal texts the first."""
    name = f"{embedding_of(observation)[0]}.weight"
    target = [observation.update.tensors[name]]
    masks = tuple(expected_mask(site) for site in observation.sites)
    seen = _copy_observation(observation)
    distances = list[float]()
    for text in orders:
        informed = _with_text(seen, text)
        assert informed.labels is not None
        gradient = client_gradient(informed, image, informed.labels, masks, [name])
        distances.append(cosine_distance([gradient[name]], target))
    return orders[min(range(len(orders)), key=distances.__getitem__)]


def _grant_text(observation: Observation, text: QuestionText) -> Observation:
    """Return the observation with a text added to the attacker knowledge."""
    knows = tuple(sorted({*observation.threat.knows, "extra-inputs", "labels"}))
    return _with_text(
        replace(_copy_observation(observation), threat=observation.threat.model_copy(update={"knows": knows})), text
    )


def _copy_observation(observation: Observation) -> Observation:
    return replace(observation, model=observation.working_copy())


def _with_text(observation: Observation, text: QuestionText) -> Observation:
    """Set a text in the observation's model, and grant it."""
    given = {"question": torch.tensor([text.question])}
    labels = torch.tensor([[*text.answer, observation.model.end]])
    observation.task.tell(observation.model, given, labels)
    return replace(observation, extra_inputs=given, labels=labels)


def _report(
    observation: Observation, text: QuestionText, guess: Reconstruction, orders: int, name: str | None
) -> Reconstruction:
    assert isinstance(observation.model, VisionLanguage)
    words = observation.model.visual.words
    said = [" ".join(words[token] for token in part) if words else str(part) for part in text]
    sure = "their order explains the update" if guess.objective < MATCHES else "their order is a guess"
    read = {
        READ_QUESTION: torch.tensor([text.question]),
        READ_ANSWER: torch.tensor([[*text.answer, observation.model.end]]),
    }
    return replace(
        guess,
        notes=(f"question read: {said[0]}; answer: {said[1]}; {sure}", f"the image by {name}", *guess.notes),
        diagnostics={**guess.diagnostics, "orders compared": float(orders)},
        extras={**guess.extras, **read},
    )
