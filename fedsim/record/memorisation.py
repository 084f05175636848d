"""What a trained model remembers of planted secrets."""

from __future__ import annotations

from fedsim.core.types import SecretKind
from fedsim.record.parts import Interval, Part


class SecretScore(Part):
    """One secret that was planted into the training text, and what the trained model remembers of it.

    `repetitions` is how often it stands in the training text, 0 for a control that was left out, and `uses` how often
    it was in a batch behind an update that counted. `exposure` is in bits, among `candidates` other sentences of its
    form, which are all there are if `is_exact`; `guess` is what the model writes behind the secret's beginning, and
    `extracted` whether that is the secret. `likeliest` is what a search found to be the likeliest of all
    sentences of the form, None where none was asked for or it gave up. `emission` holds unbiased estimates, one a run,
    of the probability that the model writes any string of the form behind the beginning; () where none was asked for.
    """

    kind: SecretKind
    text: str
    repetitions: int
    uses: int
    exposure: float
    candidates: int
    is_exact: bool
    guess: str
    extracted: bool
    likeliest: str | None = None
    emission: tuple[float, ...] = ()


class SecretSummary(Part):
    """Secrets of one kind that were planted equally often. `exposure` is their mean, `most` the largest possible.

    `found` is the share of those that the search for the likeliest sentence gave, and `emission` the mean probability
    that any string of the form is written behind their beginnings; None where none was asked for.
    """

    kind: SecretKind
    repetitions: int
    exposure: Interval
    most: float
    extracted: Interval
    found: Interval | None = None
    emission: Interval | None = None


class ExposureRecord(Part):
    """What the trained model of an arm remembers of the planted secrets."""

    secrets: tuple[SecretScore, ...]
    summaries: tuple[SecretSummary, ...]
