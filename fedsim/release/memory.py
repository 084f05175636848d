"""Memorisation of a finished language model: planted secrets, and completions of texts from their first half."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from fedsim.audit.loading import call_factory, load
from fedsim.audit.texts import MASK
from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch, Planted, Tokenizer
from fedsim.metrics.exposure import alternatives
from fedsim.metrics.statistics import wilson
from fedsim.questions.exposure.memorisation import recall, score
from fedsim.questions.exposure.question import summarise
from fedsim.record import Finding
from fedsim.release.finished import ReleaseCandidate
from fedsim.release.permutation import permutation_test, with_control
from fedsim.scenario import Scoring

_TEXTS = 100  # members, and as many others, that the model writes on
_CANDIDATES = 1000
_SHORTEST = 8  # tokens of a text, half of them known: a shorter rest is written by luck
_LANGUAGE = "next-token"
_SHAPE = "a list of (beginning, secret, form, repetitions), as [('The code is ', '4711', '####', 3)]"


def read_secrets(target: str | None, finished: ReleaseCandidate) -> list[Planted]:
    """Return the secrets that a function returns; an empty list without a function.

    Raises:
        FedsimError: it returns something else, a secret does not match its form, or the model generates no text.
    """
    if target is None:
        return []
    if finished.subject.dataset.task != _LANGUAGE or finished.subject.subject.tokenizer is None:
        raise FedsimError("--secrets needs a language model with Subject(tokenizer=...), which encodes and decodes.")
    listed = call_factory(load(target), target)
    if not isinstance(listed, list | tuple) or not all(map(_is_secret, cast("Sequence[Any]", listed))):
        raise FedsimError(f"'{target}' returned no list of secrets, expected {_SHAPE}.")
    secrets = [_secret(*cast("tuple[str, str, str, int]", secret)) for secret in cast("Sequence[Any]", listed)]
    for secret in secrets:
        signs = zip(secret.form, secret.text[len(secret.prompt) :], strict=False)
        fits = len(secret.form) == len(secret.text) - len(secret.prompt) and all(_fits(*pair) for pair in signs)
        if not fits:
            raise FedsimError(
                f"'{target}': '{secret.text}' has not the form '{secret.form}': # is a digit, ? a small letter."
            )
    return secrets


def find_secrets(secrets: Sequence[Planted], finished: ReleaseCandidate, seed: int) -> Iterator[Finding]:
    """Yield the mean exposure of secrets planted equally often, and that of others of their form behind it."""
    model, tokenizer = finished.subject.new_model().eval(), finished.subject.dataset.tokenizer
    ordered = sorted((secret for secret in secrets if secret.examples), key=lambda secret: len(secret.examples))
    for repetitions, group in groupby(ordered, key=lambda secret: len(secret.examples)):
        alike = list(group)
        assert tokenizer is not None, "texts have one"
        lucky = [_never_planted(found, seed, number) for number, found in enumerate(alike)]
        scores = [
            score(seed, model, cast("Tokenizer", tokenizer), found, _CANDIDATES, number, len(found.examples))
            for number, found in enumerate([*alike, *lucky])
        ]
        finding, control = (
            next(summarise(group, Scoring(), seed)) for group in (scores[: len(alike)], scores[len(alike) :])
        )
        assert control.value is not None, "there are as many decoys as planted secrets"
        finding = finding.model_copy(
            update={"label": f"secrets planted {repetitions} x", "extra_metrics": {}, "items": ""}
        )
        bits = np.array([found.exposure for found in scores])
        source = np.random.default_rng(seeding.derive(seed, "release secrets", repetitions))
        is_planted = np.arange(len(scores)) < len(alike)
        luck = permutation_test(lambda labels, bits=bits: float(bits[labels].mean()), is_planted, source)
        yield from with_control(finding, luck.p, control.value)


def find_texts(finished: ReleaseCandidate, seed: int) -> Iterator[Finding]:
    """Yield the share of members that the model writes on word by word, and the control; nothing of other models."""
    if finished.subject.dataset.task != _LANGUAGE:
        return
    members, non_members = (_texts(batch) for batch in (finished.members, finished.non_members))
    finding = Finding(
        question="exposure", label="texts written on from their first half", metric="secret_extraction_rate"
    )
    if not members or not non_members:
        why = f"no member, or no other example, has {_SHORTEST} tokens"
        yield finding.model_copy(update={"failure": why})
        return
    model, source = finished.subject.new_model().eval(), seeding.generator(seed, "release texts")
    written = np.array([_is_written(model, finished, text, source) for text in [*members, *non_members]])
    is_member = np.arange(len(written)) < len(members)
    value, control = (wilson(int(texts.sum()), len(texts)) for texts in (written[is_member], written[~is_member]))
    shuffles = np.random.default_rng(seeding.derive(seed, "release texts"))
    luck = permutation_test(lambda labels: float(written[labels].mean()), is_member, shuffles)
    yield from with_control(finding.model_copy(update={"value": value, "chance_level": control.value}), luck.p, control)


def _is_secret(secret: Any) -> bool:
    return isinstance(secret, list | tuple) and [*map(type, cast("Sequence[Any]", secret))] == [str, str, str, int]


def _secret(beginning: str, secret: str, form: str, repetitions: int) -> Planted:
    return Planted("canary", beginning + secret, tuple(range(repetitions)), beginning, form)


def _fits(sign: str, letter: str) -> bool:
    return (
        (letter.isdigit() and sign == "#") or (letter.isalpha() and letter.islower() and sign == "?") or sign == letter
    )


def _never_planted(planted: Planted, seed: int, number: int) -> Planted:
    source = np.random.default_rng(seeding.derive(seed, "release fillings", number))
    secret = planted.text[len(planted.prompt) :]
    decoy = alternatives(planted.form, secret, 1, source).texts[0]
    return Planted("canary", planted.prompt + decoy, planted.examples, planted.prompt, planted.form)


def _texts(batch: Batch) -> list[tuple[int, ...]]:
    """Return the tokens of sufficiently long texts, without padding."""
    masks = batch.extra_inputs.get(MASK, torch.ones_like(batch.inputs)).bool()
    texts = (tuple(tokens[mask].tolist()) for tokens, mask in zip(batch.inputs, masks, strict=True))
    return [text for text in texts if len(text) >= _SHORTEST][:_TEXTS]


def _is_written(model: nn.Module, finished: ReleaseCandidate, text: tuple[int, ...], source: torch.Generator) -> bool:
    tokenizer = cast("Tokenizer", finished.subject.dataset.tokenizer)
    return recall(model, tokenizer, [text], len(text) // 2, source).completed_tokens == text
