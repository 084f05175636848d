"""What attacks on updates found, example by example and in summary."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from fedsim.core.types import Knowledge
from fedsim.record.parts import Interval, Part


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
    """One reconstructed example against its original (matched by least squared error when the batch has several).

    `mse` is in pixel units of [0, 1] after clipping, `mse_normalised` in the model's input units, `psnr` in dB.

    Where the client trained on composites of its examples the scores say more, and are absent elsewhere.
    `psnr_trained` and `ssim_trained` are against the composite that the model saw in the example's place (of one step
    only), `seen` the share of the example's pixels that stand in any composite of the update, `psnr_seen` against these
    pixels alone.
    `minor_share` is the smaller one of the two label shares of that composite, `minor_found` whether the attack named
    both labels, `share_error` its largest error of a share; None where it gave none.

    An example for which the attack made no guess is missing: it has no guessed label, and the worst scores.
    """

    index: int
    mse: float
    mse_normalised: float
    psnr: float
    ssim: float
    label: int
    guessed_label: int | None = None
    psnr_trained: float | None = None
    ssim_trained: float | None = None
    psnr_seen: float | None = None
    seen: float | None = None
    minor_share: float | None = None
    minor_found: bool | None = None
    share_error: float | None = None

    @property
    def is_missing(self) -> bool:
        """Whether the attack made no guess of the example."""
        return self.guessed_label is None

    @model_serializer(mode="wrap")
    def _without_what_is_absent(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in fields(self).items() if value is not None}


class SentenceScore(Part):
    """One sentence of a client beside the guess that is matched to it; an empty guess where there was none.

    `token_accuracy` is the share of the sentence's tokens that stand at the right place of the guess, `rouge_1`,
    `rouge_2` and `rouge_l` the F-measures of words, of pairs of words and of the longest common subsequence of words
    (the first two None in a record from before they were taken), `exact` whether every token is right and none is too
    many.
    `secret` is the planted span that the sentence holds, if it holds one, and `secret_read` whether any guess of the
    update has it.
    """

    index: int
    text: str
    guess: str
    token_accuracy: float
    rouge_1: float | None = None
    rouge_2: float | None = None
    rouge_l: float
    exact: bool
    secret: str | None = None
    secret_read: bool = False

    @property
    def secret_is_read(self) -> bool | None:
        """Whether its secret was read; None where it holds none."""
        return None if self.secret is None else self.secret_read


class VictimRecord(Part):
    """One attacked update, or the attacked mean of a round's updates.

    `clients` holds all participants of a mean, of which `client` is the first; it is empty for a single update.
    `arrays` names its entries in the run's arrays file: `originals`, `guesses` (pixel units, matched order).
    `objective_at_truth` is the attack's matching objective at the true batch and masks: a check by the scorer.
    `facts` are figures that explain the result, by name, as the attack gave them; `found` compares what it read beside
    images and masks with the truth, as the components score it; `why` says in sentences, with what
    the scorer knows besides, why images were not recovered, and is empty when all were. Of text there are `sentences`
    in place of `scores`, and no arrays.
    """

    round: int
    client: int
    clients: tuple[int, ...] = ()
    scores: tuple[ItemScore, ...] = ()
    sentences: tuple[SentenceScore, ...] = ()
    masks: tuple[MaskScore, ...] = ()
    objective: float | None = None
    objective_at_truth: float | None = None
    iterations: int = 0
    best_iteration: int = 0
    stopped: str = ""
    history: tuple[tuple[int, float], ...] = ()
    notes: tuple[str, ...] = ()
    facts: dict[str, float] = Field(default_factory=dict)
    found: dict[str, float] = Field(default_factory=dict)
    why: tuple[str, ...] = ()
    failure: str | None = None
    seconds: float = Field(default=0.0, description="wall time of the attack; differs between runs")
    arrays: str = ""

    @model_serializer(mode="wrap")
    def _without_sentences(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is absent where examples are images."""
        return {name: value for name, value in fields(self).items() if value or name != "sentences"}

    @property
    def examples(self) -> int:
        """How many examples were scored."""
        return len(self.scores) + len(self.sentences)

    @property
    def who(self) -> str:
        """Whose data were attacked, for people."""
        if not self.clients:
            return f"client {self.client}"
        return "sum of 1 client" if len(self.clients) == 1 else f"sum of {len(self.clients)} clients"


class CompositeSummary(Part):
    """Scores against what the model saw, where clients trained on composites; see `ItemScore`. PSNR is a median."""

    psnr_trained: Interval | None
    ssim_trained: Interval | None = None
    psnr_seen: Interval | None
    seen: Interval | None
    minor_found: Interval | None


class TextSummary(Part):
    """Scores of sentences; see `SentenceScore`. Means, with `success` of the summary as the share of exact ones.

    `secrets` is the share of planted spans that were read, over the updates that hold one; None where none does.
    """

    token_accuracy: Interval | None
    rouge_1: Interval | None = None
    rouge_2: Interval | None = None
    rouge_l: Interval | None
    secrets: Interval | None = None


class Summary(Part):
    """An attack over all victims of an arm. Units of resampling are victims, not images.

    A sentence is a success when it is exact.
    """

    success: Interval
    psnr_median: Interval | None
    psnr_mean: Interval | None
    ssim_mean: Interval | None
    mse_mean: Interval | None
    label_accuracy: Interval | None
    mask_accuracy: Interval | None = None
    composites: CompositeSummary | None = None
    text: TextSummary | None = None

    @model_serializer(mode="wrap")
    def _without_composites(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is absent in most runs."""
        return {
            name: value
            for name, value in fields(self).items()
            if value is not None or name not in ("composites", "text")
        }


class AttackRecord(Part):
    """One attack on every victim of an arm. `knows` is everything it was granted."""

    label: str
    name: str
    knows: tuple[Knowledge, ...]
    settings: dict[str, Any]
    victims: tuple[VictimRecord, ...] = ()
    summary: Summary | None = None
