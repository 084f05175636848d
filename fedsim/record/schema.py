"""The record of a run: log, checkpoint and input of the report. One schema, written as `record.json`.

Everything under `scores`, `rounds` and `model_hash` depends on the scenario and its seed alone; times and
the machine are kept apart from them.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from fedsim.core.json_schema import SCHEMA_VERSION
from fedsim.core.types import Adjacency, Config, Knowledge, SecretKind, Target, Unit


class _Part(Config):
    """Numbers that are not finite are written as text, which reads back; JSON has no word for them."""

    model_config = ConfigDict(ser_json_inf_nan="strings")


class Interval(_Part):
    """An estimate over n units. `low` and `high` are None when n does not support an interval."""

    value: float
    low: float | None
    high: float | None
    n: int


Cause = Literal["error", "crash", "dropout", "late", "not finite", "no reply", "aborted"]


class Failure(_Part):
    """Somebody or something that was left out, and why.

    `error` covers what nobody declared; `aborted` is a whole round, `who` then being ``round``.
    """

    who: str
    why: str
    cause: Cause = "error"


CORRELATION = "Spearman correlation"


class Utility(NamedTuple):
    """How good a model is: what was measured on the test set, and the figure, at most 1."""

    name: str
    value: float

    @property
    def told(self) -> str:
        """For people, without the name: a correlation is no share."""
        return f"{self.value:.3f}" if self.name == CORRELATION else f"{self.value:.1%}"


class RoundRecord(_Part):
    """One federated round. What is tested is the new global model on the test set, when it is evaluated.

    `test_span_f1` is the micro F1 of spans, where labels are tags that mark them. `test_spearman` is the rank
    correlation of cosines with what people say, in [-1, 1], where there are no labels, and so no loss and no accuracy.
    `tokens` are those of the examples behind the updates that counted, what fills short ones up included; None unless
    examples are text.
    """

    round: int
    cohort: tuple[int, ...]
    failures: tuple[Failure, ...] = ()
    training_loss: float
    test_loss: float | None = None
    test_accuracy: float | None = None
    test_span_f1: float | None = None
    test_spearman: float | None = None
    tokens: int | None = None

    @property
    def utilities(self) -> tuple[Utility, ...]:
        """What was measured, the most telling first: the correlation of sentences, the F1 of spans, accuracy."""
        tested = {CORRELATION: self.test_spearman, "span F1": self.test_span_f1, "accuracy": self.test_accuracy}
        return tuple(Utility(name, value) for name, value in tested.items() if value is not None)

    @property
    def utility(self) -> Utility | None:
        """The most telling of what was measured."""
        return next(iter(self.utilities), None)


class PartitionRecord(_Part):
    """Who owns how much of which class.

    Sizes are those of `clients_measured` clients, the first by number: all of them, or a part where every client's
    share is drawn for itself. `class_counts` holds (client, examples of each class) of the first clients.
    """

    scheme: str
    clients: int
    clients_measured: int
    examples_min: int
    examples_median: float
    examples_max: int
    class_counts: tuple[tuple[int, tuple[int, ...]], ...]
    class_names: tuple[str, ...]


class MaskScore(_Part):
    """Estimated against true dropout mask of one site, over its identifiable units only.

    `accuracy` is of (estimate > 0.5); `auc` is None when the true units are all kept or all dropped.
    """

    site: str
    units: int
    identifiable: int
    accuracy: float | None
    auc: float | None


class ItemScore(_Part):
    """One reconstructed example against its original (matched by least squared error when the batch has several).

    `mse` is in pixel units of [0, 1] after clipping, `mse_normalised` in the model's input units, `psnr` in dB.

    Where the client trained on composites of its examples the scores say more, and are absent elsewhere.
    `psnr_trained` and `ssim_trained` are against the composite that the model saw in the example's place (of one step
    only), `seen` the share of the example's pixels that stand in any composite of the update, `psnr_seen` against these
    pixels alone.
    `minor_share` is the smaller one of the two label shares of that composite, `minor_found` whether the attack named
    both labels, `share_error` its largest error of a share; None where it gave none.
    """

    index: int
    mse: float
    mse_normalised: float
    psnr: float
    ssim: float
    label: int
    guessed_label: int
    psnr_trained: float | None = None
    ssim_trained: float | None = None
    psnr_seen: float | None = None
    seen: float | None = None
    minor_share: float | None = None
    minor_found: bool | None = None
    share_error: float | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_absent(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in fields(self).items() if value is not None}


class SentenceScore(_Part):
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


class VictimRecord(_Part):
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


class CompositeSummary(_Part):
    """Scores against what the model saw, where clients trained on composites; see `ItemScore`. PSNR is a median."""

    psnr_trained: Interval | None
    ssim_trained: Interval | None = None
    psnr_seen: Interval | None
    seen: Interval | None
    minor_found: Interval | None


class TextSummary(_Part):
    """Scores of sentences; see `SentenceScore`. Means, with `success` of the summary as the share of exact ones.

    `secrets` is the share of planted spans that were read, over the updates that hold one; None where none does.
    """

    token_accuracy: Interval | None
    rouge_1: Interval | None = None
    rouge_2: Interval | None = None
    rouge_l: Interval | None
    secrets: Interval | None = None


class Summary(_Part):
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


class AttackRecord(_Part):
    """One attack on every victim of an arm. `knows` is everything it was granted."""

    label: str
    name: str
    knows: tuple[Knowledge, ...]
    settings: dict[str, Any]
    victims: tuple[VictimRecord, ...] = ()
    summary: Summary | None = None


class KeptUpdate(_Part):
    """An attacked update in a file of the run folder.

    The file holds ``round-R/client-C/wire/NAME``, what travelled, for every tensor and buffer by name, and
    ``round-R/client-C/raw/NAME``, the same before the defenses that change uploads; `raw_is_wire` says that these
    changed no bit, so that the second is left out.
    """

    round: int
    client: int
    file: str
    raw_is_wire: bool


class GuaranteeRecord(_Part):
    """What a differentially private method guaranteed in an arm. An epsilon without the other fields says nothing.

    `source` names the method. `epsilon` is the least upper bound at `delta`, `accountant` who computed it: ``exact``
    (Gaussian noise without sampling), ``PRV`` or ``RDP``; `rdp_epsilon` is a second opinion, and never the smaller one.
    `noise_multiplier` is the noise over the sensitivity under `adjacency`, `sampling_rate` the probability that the
    unit takes part in one of the `steps`; `composition` says whose rounds were composed, `against` whom it holds, and
    `holds_against_server` whether the server is among these.
    """

    source: str
    epsilon: float
    delta: float
    rdp_epsilon: float
    accountant: Literal["exact", "PRV", "RDP", "none"]
    unit: Unit
    adjacency: Adjacency
    noise_multiplier: float
    sampling_rate: float
    steps: int
    composition: str
    against: str
    holds_against_server: bool = True

    @property
    def figure(self) -> str:
        """Epsilon and delta, for people."""
        return f"epsilon {self.epsilon:.3g} at delta {self.delta:g} (RDP {self.rdp_epsilon:.3g})"

    @property
    def neighbours(self) -> str:
        """What two data sets that it makes hard to tell apart differ in, for people."""
        verb = "one more or less" if self.adjacency == "add-or-remove" else "one replaced"
        return f"{'one record of a client' if self.unit == 'record' else 'a client with all records'}, {verb}"

    @property
    def sampling(self) -> str:
        """Who takes part in a step, for people."""
        return "no sampling" if self.sampling_rate == 1 else f"Poisson sampling at rate {self.sampling_rate:.4g}"


class AuditRecord(_Part):
    """What canaries in a client's private training showed about a claimed epsilon.

    `floor` is a lower bound on the true epsilon at `delta`, with `confidence`: `correct` of `guesses` about `canaries`
    were right. A floor above `claimed` contradicts the claim; one below proves nothing.
    """

    source: str
    claimed: float
    floor: float
    delta: float
    confidence: float
    canaries: int
    guesses: int
    correct: int

    @property
    def contradicts(self) -> bool:
        """Whether the claim is wrong, with the stated confidence."""
        return self.floor > self.claimed

    @property
    def figure(self) -> str:
        """Both figures and what they rest on, for people."""
        return (
            f"{self.source} claims epsilon {self.claimed:.3g} at delta {self.delta:g}; an audit with {self.canaries} "
            f"canaries ({self.correct} of {self.guesses} guesses right) shows at least {self.floor:.3g} "
            f"(confidence {self.confidence:.0%})"
        )


class ClientCost(_Part):
    """What a client's local training of one round took, when the scorer repeated it alone in its process.

    Over `n` repetitions: the median of the processor time, and in bytes the most memory that the process held, programs
    and data included; None where the system does not say. Both differ between runs.
    """

    processor_seconds: float
    peak_memory: int | None
    n: int


class SecretScore(_Part):
    """One secret that was planted into the training text, and what the trained model remembers of it.

    `repetitions` is how often it stands in the training text, 0 for a control that was left out, and `uses` how often
    it was in a batch behind an update that counted. `exposure` is in bits, among `candidates` other sentences of its
    form, which are all there are if `is_exact`; `guess` is what the model writes behind the secret's beginning, and
    `extracted` whether that is the secret. `likeliest` is what a search found to be the likeliest of all
    sentences of the form, None where none was asked for or it gave up.
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


class SecretSummary(_Part):
    """Secrets of one kind that were planted equally often. `exposure` is their mean, `most` the largest possible.

    `found` is the share of those that the search for the likeliest sentence gave; None where none was asked for.
    """

    kind: SecretKind
    repetitions: int
    exposure: Interval
    most: float
    extracted: Interval
    found: Interval | None = None


class ExposureRecord(_Part):
    """What the trained model of an arm remembers of the planted secrets."""

    secrets: tuple[SecretScore, ...]
    summaries: tuple[SecretSummary, ...]


class ArmRecord(_Part):
    """One combination of the scenario's arms, run to its end.

    `dropout` holds the rate of every dropout site of the attacked model; empty means that nothing dropped out.
    `attacked_model` says in which state the model was attacked, for example ``untrained`` or a checkpoint's name.
    """

    name: str
    values: dict[str, Any]
    parameters: int
    dropout: tuple[float, ...]
    model_hash: str
    attacked_model: str
    rounds: tuple[RoundRecord, ...]
    replay_matches: bool = Field(
        description="the scorer's replay of each victim gave what the server saw: bit by bit, or on the engine "
        "'vectorized', which adds up in another order, within 1e-4 of the update's norm"
    )
    attacks: tuple[AttackRecord, ...]
    updates: tuple[KeptUpdate, ...] = Field(default=(), description="empty unless the scenario keeps updates")
    partition: PartitionRecord | None = None
    guarantees: tuple[GuaranteeRecord, ...] = Field(
        default=(), description="one for each method of the arm that states a private mechanism"
    )
    audits: tuple[AuditRecord, ...] = Field(default=(), description="empty unless the scenario asks for an audit")
    exposure: ExposureRecord | None = Field(default=None, description="absent unless the scenario asks for it")
    membership: tuple[MembershipRecord, ...] = ()
    complete: bool = Field(default=True, description="false while attacks of this arm are outstanding")
    seconds: float = 0.0
    client_cost: ClientCost | None = Field(default=None, description="absent when no update was observed")

    @model_serializer(mode="wrap")
    def _without_exposure(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is absent where nothing was planted."""
        return {name: value for name, value in fields(self).items() if value is not None or name != "exposure"}


class TruePositives(_Part):
    """Share of the members that are found where at most a share `fpr` of the non-members is taken for members.

    `tpr` has a Clopper-Pearson interval at the threshold that was found; it is None when there are fewer than 1 / fpr
    non-members, which cannot show so small a rate.
    """

    fpr: float
    tpr: Interval | None


class MembershipSummary(_Part):
    """How well scores tell members from others.

    `auc` is the probability that a member scores above a non-member. `advantage` is TPR - FPR, which is twice the
    balanced accuracy minus one, at a threshold that is chosen on one half of the candidates and judged on the other.
    `roc` holds (FPR, TPR), thinned.
    """

    auc: Interval
    advantage: float
    low_fpr: tuple[TruePositives, ...]
    roc: tuple[tuple[float, float], ...]


class MembershipRecord(_Part):
    """One membership attack in one arm: on the trained model, or on the updates of `client` in `rounds`."""

    label: str
    name: str
    settings: dict[str, Any]
    target: Target
    members: int
    non_members: int
    client: int | None = None
    rounds: tuple[int, ...] = ()
    summary: MembershipSummary | None = None
    failure: str | None = None
    seconds: float = Field(default=0.0, description="wall time without shadow models; differs between runs")


class Environment(_Part):
    """What a reader needs to run it again."""

    command: str
    versions: dict[str, str]
    python: str
    platform: str
    processor: str
    cores: int
    torch_threads: int
    git_commit: str | None
    git_dirty: bool | None


class RunRecord(_Part):
    """One run of a scenario. A record that is being written says ``interrupted``, so that a kill leaves the truth."""

    schema_version: Literal[1] = SCHEMA_VERSION
    status: Literal["finished", "interrupted", "failed"]
    scenario: dict[str, Any]
    scenario_hash: str
    threat_model: tuple[str, ...] = Field(description="the threat model in plain sentences, as printed before the run")
    environment: Environment
    started: str = Field(description="UTC, ISO 8601")
    ended: str | None = None
    arms: tuple[ArmRecord, ...] = ()
    failures: tuple[Failure, ...] = ()
