"""exposure: what does the trained model remember of planted secrets?

Secrets stand in the clients' text a known number of times. Each is ranked among other sentences of its form, and the
model writes on behind its beginning. A secret that was planted 0 times is the control.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, final

from pydantic import Field

from fedsim.core.registry import question
from fedsim.core.types import Config
from fedsim.questions import Evidence, Question, Work
from fedsim.record import Finding, SecretSummary
from fedsim.scenario.world import World
from fedsim.threat import memorisation


class Exposure(Config):
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
        """Check that secrets are planted, and that examples hold them whole."""
        memorisation.check(world)

    def ask(self, evidence: Evidence, work: Work) -> Iterator[Finding]:
        """Yield one finding for each kind and number of repetitions."""
        known = memorisation.measure_exposure(evidence.world, evidence.journal, **dict(self.config))
        columns = ("kind", "repetitions", "uses", "text", "guess", "extracted", "exposure", "likeliest")
        work.items["exposure/secrets"] = {name: [getattr(secret, name) for secret in known.secrets] for name in columns}
        for summary in known.summaries:
            yield _finding(summary)


def _chance(sentences: int) -> float:
    """Return the mean exposure of a secret that was never seen, whose rank among so many is uniform, in bits."""
    return math.log2(sentences) - math.lgamma(sentences + 1) / (sentences * math.log(2))


def _finding(summary: SecretSummary) -> Finding:
    further = {"secrets_written": summary.extracted, "likeliest": summary.found, "emission": summary.emission}
    return Finding(
        question="exposure",
        label=f"{summary.kind} x {summary.repetitions}",
        about={"secrets": summary.kind, "repetitions": summary.repetitions},
        role="attack" if summary.repetitions else "chance",
        metric="exposure",
        value=summary.exposure,
        chance=_chance(round(2**summary.most)),
        limit=summary.most,
        more={name: interval for name, interval in further.items() if interval is not None},
        items="exposure/secrets",
    )
