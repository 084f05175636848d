"""Exposure and extraction of the secrets planted in a federation's training text.

The attacker has the final model and knows a secret's prefix and form. It ranks all candidate values, generates from the
prefix, or searches the most likely value. Paper: Carlini et al. 2019, arXiv 1802.08232. A secret with 0 repetitions is
the negative control: drawn from the same distribution, but in no client's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from fedsim.core import seeding
from fedsim.core.choices import Choice
from fedsim.core.errors import ScenarioError
from fedsim.core.hooks import GenerationInputs
from fedsim.core.nets.masked_positions import mask_token
from fedsim.core.time_budget import check_deadline
from fedsim.core.types import Limits, Planted, Tokenizer
from fedsim.federation.journal import ServerLog
from fedsim.generation import generate
from fedsim.metrics.exposure import (
    SecretScore,
    alternatives,
    common_beginning,
    exposure,
    log_perplexities,
)
from fedsim.questions.exposure.likeliest import likeliest
from fedsim.questions.exposure.pattern_probability import emissions
from fedsim.scenario.world import World
from fedsim.threat.uses import count_training

_NEXT_TOKEN, _MASKED_PLACES = Choice(name="greedy"), Choice(name="fixed")  # both decode greedily


def check(world: World, *, search: int = 0, emission: int = 0) -> None:
    """Check before the first round that secrets with measurable exposure exist.

    Args:
        world: a scenario with the question.
        search: as in `measure_exposure`.
        emission: as in `measure_exposure`.

    Raises:
        ScenarioError: no secret is planted, examples are too short for a secret, or a search or an emission is
            requested for a masked language model.
    """
    if not world.data.dataset.planted_secrets:
        raise ScenarioError(
            "exposure: no secret is planted in the training text. Choose a text set, and set data.canaries, "
            "data.identities or data.addresses."
        )
    cut = [
        secret
        for secret in world.data.dataset.planted_secrets
        if len(secret.text) != len(secret.prompt) + len(secret.form)
    ]
    if cut:
        raise ScenarioError(
            f"exposure: data.length is {world.data.dataset.spec.shape[0]}, which cuts a secret after "
            f"'{cut[0].text}'. Raise data.length until it holds whole secrets."
        )
    if (search or emission) and mask_token(world.models.load_weights(world.models.first_weights)) is not None:
        raise ScenarioError(
            f"exposure.{'search' if search else 'emission'} goes from left to right by the scores of the next token, "
            f"and model '{world.scenario.model.name}' fills in masked places. Leave out exposure.search and "
            "exposure.emission."
        )


def measure_exposure(
    world: World, journal: ServerLog, *, candidates: int, search: int = 0, emission: int = 0
) -> tuple[SecretScore, ...]:
    """Return exposure and extraction of every planted secret in the final model.

    Args:
        world: a scenario accepted by `check`.
        journal: journal of the whole training.
        candidates: maximum number of alternative values of a secret's form in the ranking.
        search: maximum number of prefixes evaluated in the search for the most likely value; 0: no search.
        emission: runs that estimate the probability of generating any string of a secret's form; 0: none.
    """
    model, tokenizer = world.models.new().eval(), world.data.dataset.tokenizer
    model.load_state_dict(dict(journal.weights))
    assert tokenizer is not None
    uses = count_training(world, journal.rounds)
    seed = world.scenario.seed
    with seeding.isolate_randomness(seeding.derive(seed, "exposure")):  # some models are random in evaluation mode too
        secrets = tuple(
            score(seed, model, tokenizer, secret, candidates, number, sum(uses[list(secret.examples)].tolist()))
            for number, secret in enumerate(world.data.dataset.planted_secrets)
        )
        if search:
            secrets = _search(secrets, model, tokenizer, world.data.dataset.planted_secrets, search)
        if emission:
            estimates = emissions(model, tokenizer, world.data.dataset.planted_secrets, emission, seed)
            pairs = zip(secrets, estimates, strict=True)
            secrets = tuple(replace(secret, emission=estimate) for secret, estimate in pairs)
    return secrets


def score(
    seed: int, model: nn.Module, tokenizer: Tokenizer, planted: Planted, limit: int, number: int, uses: int
) -> SecretScore:
    """Return exposure and extraction of a secret.

    Args:
        seed: seed of the alternative values and of the generation.
        model: language model in evaluation mode.
        tokenizer: the model's tokenizer.
        planted: the secret.
        limit: maximum number of alternative values in the ranking.
        number: index of the secret, part of its seeds.
        uses: number of training uses of the secret.
    """
    check_deadline()
    source = np.random.default_rng(seeding.derive(seed, "exposure candidates", number))
    secret = planted.text[len(planted.prompt) :]
    false_secrets = alternatives(planted.form, secret, limit, source)
    sentences = [tokenizer.encode(planted.prompt + filling) for filling in (secret, *false_secrets.texts)]
    known = common_beginning(sentences[0], tokenizer.encode(planted.prompt))
    recalled = recall(model, tokenizer, sentences, known, seeding.generator(seed, "exposure text", number))
    guess = tokenizer.decode(recalled.completed_tokens)
    return SecretScore(
        kind=planted.kind,
        text=planted.text,
        repetitions=len(planted.examples),
        uses=uses,
        exposure=recalled.exposure,
        candidates=len(false_secrets.texts),
        is_exact=false_secrets.is_complete,
        guess=guess,
        extracted=guess == planted.text,
    )


def _search(
    secrets: Sequence[SecretScore], model: nn.Module, tokenizer: Tokenizer, planted: Sequence[Planted], limit: int
) -> tuple[SecretScore, ...]:
    """Return the scores with the most likely value, one search per prefix and form."""
    answers = {
        (canary.prompt, canary.form): likeliest(model, canary.prompt, canary.form, tokenizer, limit)
        for canary in {(canary.prompt, canary.form): canary for canary in planted}.values()
    }
    texts = [answer.text if (answer := answers[canary.prompt, canary.form]) else None for canary in planted]
    return tuple(replace(secret, likeliest=text) for secret, text in zip(secrets, texts, strict=True))


class Recall(NamedTuple):
    """Exposure of a secret in bits, and the tokens of its prefix with the model's completion."""

    exposure: float
    completed_tokens: tuple[int, ...]


def recall(
    model: nn.Module, tokenizer: Tokenizer, sentences: Sequence[Sequence[int]], known: int, generator: torch.Generator
) -> Recall:
    """Rank a secret among alternative values, and generate a completion of its prefix, as long as the secret.

    Args:
        model: language model in evaluation mode.
        tokenizer: the model's tokenizer.
        sentences: tokens of the secret, then of the alternatives.
        known: number of tokens of the secret's prefix.
        generator: random source of models that sample.
    """
    bits = log_perplexities(model, sentences, tokenizer)
    secret = sentences[0]
    limits = Limits(max_new_tokens=len(secret) - known)
    decoder = _NEXT_TOKEN if mask_token(model) is None else _MASKED_PLACES
    (written,) = generate(
        decoder.make("component"), model, GenerationInputs((tuple(secret[:known]),)), limits, [generator]
    )
    return Recall(exposure(float(bits[0]), bits[1:]), (*secret[:known], *written.tokens))
