"""Scores of attacks on updates, per example and in summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from fedsim.core.types import Knowledge
from fedsim.record.findings import Finding
from fedsim.record.parts import RecordModel

CONVERGENCE_FACTOR = (
    1.05  # a search has converged if its objective is at most this multiple of the objective at the ground truth
)


class MaskScore(RecordModel):
    """Estimated against true dropout mask of a site, over its identifiable units only.

    `accuracy` uses (estimate > 0.5); `auc` is None when the true units are all kept or all dropped.
    """

    site: str
    units: int
    identifiable: int
    accuracy: float | None
    auc: float | None


class ItemScore(RecordModel):
    """An example of a client with its matched guess: an image, a sentence, or another kind.

    `values` holds its metrics by name, in the order of tables. Other fields are absent if unknown: `label` and
    `guessed_label`, `text` and `guess`, `secret`, the planted span in the text, and `group`, for the comparison of
    risks between groups. An example without a guess `is_missing`, and has the worst values.
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

    def with_values(self, values: Mapping[str, float]) -> ItemScore:
        """Return a copy with further metrics."""
        return self.model_copy(update={"values": {**self.values, **values}})

    @model_serializer(mode="wrap")
    def _drop_absent(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in fields(self).items() if value is not None and value is not False}


class Ceiling(RecordModel):
    """Bound on an ideal attacker's knowledge of the examples, to first order at the ground truth; no guarantee.

    `psnr` bounds the mean error in dB, for examples in pixels; for inputs too large for the exact value it lies between
    `psnr_low` and `psnr_high`. `rank` and `condition` describe the derivative of the update by its `inputs` entries,
    `known_entries` is the effective number of known entries. `untold` is the PSNR with unknown dropout masks.
    `others_known` is the PSNR of a server that knows the examples of all other clients of a sum. `informed` is the PSNR
    with known covariance of public examples, and `scores` are the scores of such an attacker's guess. `undefined` gives
    the reason of a missing ceiling.
    """

    psnr: float | None = None
    psnr_low: float | None = None
    psnr_high: float | None = None
    inputs: int = 0
    rank: int | None = None
    condition: float | None = None
    known_entries: float | None = None
    psnr_masks_unknown: float | None = None
    psnr_other_clients_known: float | None = None
    psnr_with_covariance: float | None = None
    scores: tuple[ItemScore, ...] = ()
    undefined: str = ""


class VictimRecord(RecordModel):
    """An attacked update, or the attacked mean of a round's updates.

    `clients` holds all participants of a mean, with `client` the first; it is empty for a single update.
    `scores` are the scores of its examples, `values` the metrics of the whole update, by name.
    `arrays` names its entries in the run's arrays file: `originals`, `guesses` (pixel units, matched order); empty for
    text.
    `objective_at_truth` is the attack's matching objective at the true batch and masks, computed by the scorer.
    `converged` is whether the guess explains the update as well as the ground truth does, up to a factor
    `CONVERGENCE_FACTOR` of the scorer's own objective; None if undefined. A failed search is evidence only if it
    converged.
    `diagnostics` are figures of the attack by name; `extras` are the components' scores of recovered quantities other
    than images and masks; `explanations` say why images were not recovered, also by the scorer's knowledge, and are
    empty if all were recovered.
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
    diagnostics: dict[str, float] = Field(default_factory=dict)
    extras: dict[str, float] = Field(default_factory=dict)
    explanations: tuple[str, ...] = ()
    failure: str | None = None
    seconds: float = Field(default=0.0, description="wall time of the attack (audits: processor time)")
    arrays: str = ""

    @property
    def examples(self) -> int:
        """The number of scored examples."""
        return len(self.scores)

    @property
    def sender(self) -> str:
        """The attacked client or clients as text."""
        if not self.clients:
            return f"client {self.client}"
        return "sum of 1 client" if len(self.clients) == 1 else f"sum of {len(self.clients)} clients"


class AttackFinding(Finding):
    """Finding of an attack over all attacked updates of an arm.

    Its value is the share of recovered examples; `more` holds statistics of the metrics of examples and updates, by the
    names that the metrics declare. Victims, not examples, are resampled.

    Attributes:
        knows: all granted knowledge.
        victims: the attacked updates.
    """

    knows: tuple[Knowledge, ...] = ()
    victims: tuple[VictimRecord, ...] = ()

    @property
    def metric_names(self) -> Iterator[str]:
        """The name of every metric value in the finding, with repetitions."""
        yield self.metric
        for victim in self.victims:
            yield from (name for item in victim.scores for name in item.values)
            yield from victim.values
