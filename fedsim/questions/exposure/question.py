"""exposure: measure memorisation of planted secrets by the trained model.

Secrets occur in the clients' text a known number of times. Each is ranked among other values of its form, and the model
generates a completion of its prefix. A secret with 0 repetitions is the negative control.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar, final

import numpy as np
from pydantic import Field

from fedsim.core import seeding
from fedsim.core.best_step import TimedConfig
from fedsim.core.registry import question
from fedsim.core.types import SecretKind
from fedsim.metrics.exposure import SecretScore, mean_over_prefixes, share_likeliest
from fedsim.metrics.statistics import mean_interval, wilson
from fedsim.questions.base import Evidence, Question, QuestionContext
from fedsim.questions.exposure import memorisation
from fedsim.record import Columns, Finding
from fedsim.scenario import Scoring
from fedsim.scenario.world import World

ITEMS = "exposure/secrets"


class Exposure(TimedConfig):
    """Settings of the ranking, the search and the emission estimate."""

    candidates: int = Field(
        default=1000,
        ge=1,
        description="number of other sentences of a secret's form (decoys) for its rank, at most all",
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
@question("exposure", summary="which planted secrets does the trained model memorise?", related="1802.08232")
class ExposureQuestion(Question[Exposure]):
    """Ranks planted secrets among other values of their form, and generates completions of their prefixes."""

    metric: ClassVar[str] = "exposure"
    title: ClassVar[str] = "What was memorised?"
    summary: ClassVar[str] = (
        "Secrets were planted into the clients' text a known number of times. Exposure is log2 |R| - log2 rank of the "
        "secret in the trained model, among other sentences of the same form: a secret that was never planted has 1.44 "
        "bits on average among many, and t bits or more with probability 2^-t."
    )
    method: ClassVar[str] = (
        "Written: secrets that greedy decoding generates after their prefix. Found by search: "
        "secrets that are the most likely of all sentences of their form. Any of the form: "
        "probability that sampling at temperature 1 generates any string of the form after the "
        "prefix, an unbiased estimate from weighted runs. Intervals are over secrets."
    )

    def check(self, world: World) -> None:
        """Check that secrets are planted, that examples contain them whole, and that the model supports the search."""
        memorisation.check(world, search=self.config.search, emission=self.config.emission)

    def run(self, evidence: Evidence, work: QuestionContext) -> Iterator[Finding]:
        """Yield a finding for each kind and number of repetitions."""
        secrets = memorisation.measure_exposure(
            evidence.world, evidence.journal, **self.config.model_dump(exclude={"seconds"})
        )
        work.items[ITEMS] = table_of(secrets)
        scenario, is_searched = evidence.world.scenario, bool(self.config.search)
        yield from summarise(secrets, scenario.scoring, scenario.seed, is_searched=is_searched)


def table_of(secrets: Sequence[SecretScore]) -> Columns:
    """Return the table of secrets, to which findings refer as `ITEMS`."""
    columns = ("kind", "repetitions", "uses", "text", "guess", "extracted", "exposure", "likeliest")
    return {name: [getattr(secret, name) for secret in secrets] for name in columns}


def summarise(
    secrets: Sequence[SecretScore], scoring: Scoring, seed: int, *, is_searched: bool = False
) -> Iterator[Finding]:
    """Yield a finding for the secrets of each kind and number of repetitions.

    Args:
        secrets: secrets of a single model, not empty.
        scoring: coverage of intervals, and number of bootstrap resamples over secrets.
        seed: seed of the resamples.
        is_searched: whether the most likely value of each form was searched.
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
    extra = {"secret_extraction_rate": wilson(sum(secret.extracted for secret in alike), len(alike), confidence)}
    if is_searched:
        extra["likeliest"] = share_likeliest(alike, confidence)
    if estimates := [secret.emission for secret in alike if secret.emission]:
        extra["emission"] = mean_over_prefixes(estimates, source, confidence)
    return Finding(
        question="exposure",
        label=f"{first.kind} x {first.repetitions}",
        scope={"secrets": first.kind, "repetitions": first.repetitions},
        role="attack" if first.repetitions else "negative-control",
        metric="exposure",
        value=value,
        chance_level=_chance(first.candidates + 1),
        max_value=math.log2(first.candidates + 1),
        extra_metrics=extra,
        items=ITEMS,
    )


def _chance(sentences: int) -> float:
    """Return the mean exposure of an unseen secret, with uniform rank among `sentences` values, in bits."""
    return math.log2(sentences) - math.lgamma(sentences + 1) / (sentences * math.log(2))
