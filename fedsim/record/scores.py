"""What attacks on updates found, example by example and in summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from fedsim.core.types import Knowledge
from fedsim.record.findings import Finding
from fedsim.record.parts import Part

AS_LOW = 1.05  # a search has converged where its objective is at most this many times that at the truth


class MaskScore(Part):
    """Estimated against true dropout mask of one site, over its identifiable units only.

    `accuracy` is of (estimate > 0.5); `auc` is None when the true units are all kept or all dropped.
    """

    site: str
    units: int
    identifiable: int
    accuracy: float | None
    auc: float | None


class ItemScore(Part):
    """One example of a client beside the guess that is matched to it: an image, a sentence, or anything else.

    `values` holds its metrics by name, in the order in which tables show them. What else is known of it is absent where
    it has none: `label` and `guessed_label`, `text` and `guess`, `secret`, the planted span that the text holds, and
    `group`, whose risk is compared with that of others.
    An example for which the attack made no guess `is_missing`, and has the worst values.
    """

    index: int
    values: dict[str, float]
    label: int | None = None
    guessed_label: int | None = None
    text: str | None = None
    guess: str | None = None
    secret: str | None = None
    group: str | None = None
    is_missing: bool = False

    def with_values(self, more: Mapping[str, float]) -> ItemScore:
        """Return the same with further metrics."""
        return self.model_copy(update={"values": {**self.values, **more}})

    @model_serializer(mode="wrap")
    def _without_what_is_absent(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in fields(self).items() if value is not None and value is not False}


class Ceiling(Part):
    """What an ideal attacker could know of the examples behind an update, to first order at the truth; no guarantee.

    `psnr` bounds the mean error in dB, for examples in pixels: of inputs too large for the exact figure between
    `psnr_low` and `psnr_high`. `rank` and `condition` are those of the update's derivative by its `inputs` entries,
    `known` is the effective number of entries that are known. `untold` is the PSNR of who is not told the dropout
    masks. `others_known` is that of a server that knows the examples of all clients of a sum but one. `informed` is
    that of who also knows how the entries of public examples vary together, and `scores` are those of what its guess
    would look like. `undefined` says why there is no ceiling.
    """

    psnr: float | None = None
    psnr_low: float | None = None
    psnr_high: float | None = None
    inputs: int = 0
    rank: int | None = None
    condition: float | None = None
    known: float | None = None
    untold: float | None = None
    others_known: float | None = None
    informed: float | None = None
    scores: tuple[ItemScore, ...] = ()
    undefined: str = ""


class VictimRecord(Part):
    """One attacked update, or the attacked mean of a round's updates.

    `clients` holds all participants of a mean, of which `client` is the first; it is empty for a single update.
    `scores` are those of its examples, `values` the metrics of the update as a whole, by name.
    `arrays` names its entries in the run's arrays file: `originals`, `guesses` (pixel units, matched order); text has
    none.
    `objective_at_truth` is the attack's matching objective at the true batch and masks: a check by the scorer.
    `converged` says whether the guess explains what was sent as well as the truth does, up to `AS_LOW`, by the scorer's
    own measure; None where that is not defined. A search that failed is evidence only where it converged.
    `facts` are figures that explain the result, by name, as the attack gave them; `extras` compares what it read beside
    images and masks with the truth, as the components score it; `why` says in sentences, with what
    the scorer knows besides, why images were not recovered, and is empty when all were.
    """

    round: int
    client: int
    clients: tuple[int, ...] = ()
    scores: tuple[ItemScore, ...] = ()
    values: dict[str, float] = Field(default_factory=dict)
    masks: tuple[MaskScore, ...] = ()
    objective: float | None = None
    objective_at_truth: float | None = None
    converged: bool | None = None
    ceiling: Ceiling | None = None
    iterations: int = 0
    best_iteration: int = 0
    stopped: str = ""
    history: tuple[tuple[int, float], ...] = ()
    notes: tuple[str, ...] = ()
    facts: dict[str, float] = Field(default_factory=dict)
    extras: dict[str, float] = Field(default_factory=dict)
    why: tuple[str, ...] = ()
    failure: str | None = None
    seconds: float = Field(default=0.0, description="wall time of the attack; differs between runs")
    arrays: str = ""

    @property
    def examples(self) -> int:
        """How many examples were scored."""
        return len(self.scores)

    @property
    def who(self) -> str:
        """Whose data were attacked, for people."""
        if not self.clients:
            return f"client {self.client}"
        return "sum of 1 client" if len(self.clients) == 1 else f"sum of {len(self.clients)} clients"


class AttackFinding(Finding):
    """What an attack made of every attacked update of an arm.

    Its value is the share of examples that count as recovered; `more` holds what the values of examples and updates
    come to, by the names of statistics that metrics declare. Units of resampling are victims, not examples.

    Attributes:
        knows: everything that it was granted.
        victims: the attacked updates, one by one.
    """

    knows: tuple[Knowledge, ...] = ()
    victims: tuple[VictimRecord, ...] = ()

    @property
    def measured(self) -> Iterator[str]:
        """The name of every metric in it, again and again."""
        yield self.metric
        for victim in self.victims:
            yield from (name for item in victim.scores for name in item.values)
            yield from victim.values
