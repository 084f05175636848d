"""exposure: what does the trained model remember of planted secrets?

Secrets stand in the clients' text a known number of times. Each is ranked among other sentences of its form, and the
model writes on behind its beginning. A secret that was planted 0 times is the control.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar, final

import numpy as np
from pydantic import Field

from fedsim.core import seeding
from fedsim.core.deadline import TimedConfig
from fedsim.core.registry import question
from fedsim.core.types import SecretKind
from fedsim.metrics.exposure import SecretScore, over_beginnings, share_likeliest
from fedsim.metrics.statistics import mean_interval, wilson
from fedsim.questions.base import Evidence, Question, Work
from fedsim.questions.exposure import memorisation
from fedsim.record import Columns, Finding
from fedsim.scenario import Scoring
from fedsim.scenario.world import World

ITEMS = "exposure/secrets"


class Exposure(TimedConfig):
    """What the trained model remembers of the secrets that were planted into the training text."""

    candidates: int = Field(
        default=1000,
        ge=1,
        description="other sentences of a secret's form that it is ranked among; or all there are",
    )
    search: int = Field(
        default=0,
        ge=0,
        description="beginnings that the model is shown at most in a search for the likeliest filling; 0: no search",
    )
    emission: int = Field(
        default=0,
        ge=0,
        description="runs that estimate how likely the model writes any string of a secret's form; 0: none (extra "
        "constrain)",
    )


@final
@question("exposure", summary="what does the trained model remember of planted secrets?", related="1802.08232")
class WhatWasMemorised(Question[Exposure]):
    """Ranks planted secrets among others of their form, and lets the model write them."""

    metric: ClassVar[str] = "exposure"
    title: ClassVar[str] = "What was memorised?"
    summary: ClassVar[str] = (
        "Secrets were planted into the clients' text a known number of times. Exposure is log2 |R| - log2 rank of the "
        "secret in the trained model, among other sentences of the same form: a secret that was never planted has 1.44 "
        "bits on average among many, and t bits or more with probability 2^-t."
    )
    method: ClassVar[str] = (
        "Written are those that the model writes itself behind their beginning, always taking the likeliest token; "
        "found by search are those that are the likeliest of all sentences of their form. Any of the form is the "
        "probability that the model, drawing at temperature 1, writes any string of the form behind the beginning: "
        "unbiased estimates from weighted runs. Intervals are over secrets."
    )

    def check(self, world: World) -> None:
        """Check that secrets are planted, that examples hold them whole, and that the model can be searched."""
        memorisation.check(world, search=self.config.search, emission=self.config.emission)

    def ask(self, evidence: Evidence, work: Work) -> Iterator[Finding]:
        """Yield one finding for each kind and number of repetitions."""
        secrets = memorisation.measure_exposure(
            evidence.world, evidence.journal, **self.config.model_dump(exclude={"seconds"})
        )
        work.items[ITEMS] = table_of(secrets)
        scenario, is_searched = evidence.world.scenario, bool(self.config.search)
        yield from summarise(secrets, scenario.scoring, scenario.seed, is_searched=is_searched)


def table_of(secrets: Sequence[SecretScore]) -> Columns:
    """Return secrets as the table that findings about them refer to as `ITEMS`."""
    columns = ("kind", "repetitions", "uses", "text", "guess", "extracted", "exposure", "likeliest")
    return {name: [getattr(secret, name) for secret in secrets] for name in columns}


def summarise(
    secrets: Sequence[SecretScore], scoring: Scoring, seed: int, *, is_searched: bool = False
) -> Iterator[Finding]:
    """Yield a finding for the secrets of each kind that stand in the text equally often.

    Args:
        secrets: of one model, at least one.
        scoring: coverage of intervals, and resamples of the bootstrap over secrets.
        seed: of the resamples.
        is_searched: whether somebody searched the likeliest sentence of each form.
    """
    source = np.random.default_rng(seeding.derive(seed, "bootstrap"))
    groups: set[tuple[SecretKind, int]] = {(secret.kind, secret.repetitions) for secret in secrets}
    for kind, repetitions in sorted(groups):
        alike = [secret for secret in secrets if (secret.kind, secret.repetitions) == (kind, repetitions)]
        yield _finding(alike, scoring, source, is_searched=is_searched)


def _finding(
    alike: Sequence[SecretScore], scoring: Scoring, source: np.random.Generator, *, is_searched: bool
) -> Finding:
    first, confidence = alike[0], scoring.confidence
    value = mean_interval([[secret.exposure] for secret in alike], source, confidence, scoring.resamples)
    more = {"secrets_written": wilson(sum(secret.extracted for secret in alike), len(alike), confidence)}
    if is_searched:
        more["likeliest"] = share_likeliest(alike, confidence)
    if estimates := [secret.emission for secret in alike if secret.emission]:
        more["emission"] = over_beginnings(estimates, source, confidence)
    return Finding(
        question="exposure",
        label=f"{first.kind} x {first.repetitions}",
        about={"secrets": first.kind, "repetitions": first.repetitions},
        role="attack" if first.repetitions else "chance",
        metric="exposure",
        value=value,
        chance=_chance(first.candidates + 1),
        limit=math.log2(first.candidates + 1),
        more=more,
        items=ITEMS,
    )


def _chance(sentences: int) -> float:
    """Return the mean exposure of a secret that was never seen, whose rank among so many is uniform, in bits."""
    return math.log2(sentences) - math.lgamma(sentences + 1) / (sentences * math.log(2))
