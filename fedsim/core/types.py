"""The nouns of the story: what travels from a client's data to an attacker's guess. Frozen, typed, no logic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict
from torch import Generator, Tensor, dtype, long, nn

Tensors = Mapping[str, Tensor]
Masks = tuple[Tensor, ...]
Memory = dict[str, dict[str, Tensor]]  # what a client remembers between rounds: owner -> name -> tensor
Loss = Callable[[Tensor, Tensor], Tensor]
Knowledge = Literal[
    "labels",
    "masks",
    "batch-size",
    "dropout-rates",
    "input-statistics",
    "defenses",
    "components",
    "draws",
    "earlier-rounds",
]
Draws = Mapping[str, Tensor]  # what the components of a step drew, by "component.what"
Modality = Literal["images", "text"]  # what one example is
SecretKind = Literal["identity", "canary", "address"]  # what is planted into training text
Server = Literal["honest-but-curious", "malicious"]  # whether the server also changes the model that it hands out
View = Literal["single-update", "sum"]  # what the server sees of a round: each client's update, or only their mean


class Config(BaseModel):
    """Base of every method's settings: immutable, unknown keys refused, bounds and units in the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Batch:
    """Model inputs (normalised, first dimension is the example) and integer labels of the same length.

    A hook may turn the labels into probabilities of shape (B, K). Of text, inputs are token numbers (B, T), and labels
    are the next tokens or the tags of the tokens (B, T), where -100 is left out of the loss.
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class InputSpec:
    """Public facts about a model's inputs.

    Attributes:
        shape: shape of one example, channels first, for example ``(3, 32, 32)``; of text ``(T,)``.
        classes: number of classes; of next tokens, that of all tokens; of tags, that of all tags.
        mean: per-channel mean that was subtracted, in pixel units of [0, 1]; empty for text.
        std: per-channel standard deviation that was divided by; empty for text.
        vocabulary: number of tokens, if inputs are token numbers; None for images.
        padding: the token that fills up a short example; None for images, and where no example is filled up.
        borders: tokens that a tokenizer puts in front of a text and behind it, which are no part of it.
    """

    shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    vocabulary: int | None = None
    padding: int | None = None
    borders: tuple[int, ...] = ()

    @property
    def modality(self) -> Modality:
        """What one example is."""
        return "images" if self.vocabulary is None else "text"

    @property
    def labels_are_text(self) -> bool:
        """Whether labels are the next tokens, as a language model learns them, and no tags."""
        return self.classes == self.vocabulary

    @property
    def dtype(self) -> dtype | None:
        """Type of the inputs; None for that of the model's parameters."""
        return None if self.vocabulary is None else long


class Tokenizer(Protocol):
    """Text to token numbers and back. It is public, as is a model's architecture."""

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        ...

    @property
    def padding(self) -> int:
        """The token that fills up a short example."""
        ...

    @property
    def begin(self) -> int | None:
        """The token that models expect in front of a text; None where they expect none."""
        ...

    @property
    def end(self) -> int:
        """The token that follows the last one of a text."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without padding and end."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; of padding and end nothing."""
        ...


@dataclass(frozen=True)
class Planted:
    """A secret that was put into the training text a known number of times.

    Attributes:
        kind: ``"identity"`` (a generated person's phone number), ``"address"`` (e-mail address) or ``"canary"``
            (random digits behind a fixed beginning).
        text: the sentence, as far as examples hold it.
        examples: numbers of the training examples that hold it; none for one that was left out, as a control.
        prompt: the beginning of the sentence, which an attacker may know.
        form: what all sentences of this kind have behind the prompt, ``#`` for a random digit and ``?`` for a random
            small letter.
    """

    kind: SecretKind
    text: str
    examples: tuple[int, ...]
    prompt: str = ""
    form: str = ""

    @property
    def span(self) -> str:
        """What is secret of the sentence: a number or an address, without the sign at the end."""
        return self.text.removeprefix(self.prompt).strip(" .")


@dataclass(frozen=True)
class Similarities:
    """How alike people found pairs of test examples.

    Attributes:
        pairs: numbers of two test examples, shape (P, 2).
        scores: higher for those that are more alike, shape (P,).
    """

    pairs: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Dataset:
    """Normalised training and test examples with what is public about them.

    Attributes:
        users: owner of each training example, or None when the set names no users; of text, its document.
        tokenizer: of text, what made its tokens.
        planted: of text, the secrets in it; private.
        similarities: of sentences without labels, whose labels are all 0, what embeddings are tested on; else None.
    """

    train: Batch
    test: Batch
    spec: InputSpec
    class_names: tuple[str, ...]
    users: Tensor | None = None
    tokenizer: Tokenizer | None = None
    planted: tuple[Planted, ...] = ()
    similarities: Similarities | None = None


@dataclass(frozen=True)
class DropoutSite:
    """One call of a dropout function in a forward pass.

    Attributes:
        call: position among all dropout calls of the forward pass, from 0.
        name: the module it happened in, for people.
        rate: probability p of dropping an entry; 0 when the observer was not told.
        shape: shape of the mask, batch first.
        odds: of a mask that keeps a random prefix of the last dimension, of one length and not rescaled, the
            probabilities of its lengths 1, 2, ...; `rate` is then the expected share of dropped entries. Empty
            for independent entries, and when the observer was not told.
        per_example: whether such a mask has a length of its own for every example.
    """

    call: int
    name: str
    rate: float
    shape: tuple[int, ...]
    odds: tuple[float, ...] = ()
    per_example: bool = False


@dataclass(frozen=True)
class Update:
    """What a client sends.

    Attributes:
        kind: ``"gradient"`` (mean loss gradient at the received weights) or ``"delta"`` (received
            weights minus trained weights, so that both point the same way).
        tensors: parameter name to tensor.
        buffers: change of the model's floating-point buffers (received minus new), empty for most models.
        examples: number of examples behind the update.
        loss: the client's mean training loss, a side channel of the wire.
    """

    kind: Literal["gradient", "delta"]
    tensors: Tensors
    buffers: Tensors
    examples: int
    loss: float


class Contribution(NamedTuple):
    """One client's update as an aggregator gets it.

    Attributes:
        client: number of the client.
        vector: every tensor of the update, flattened and joined in one order for all clients, shape (P,), floating.
        examples: number of examples behind the update.
    """

    client: int
    vector: Tensor
    examples: int


@dataclass(frozen=True)
class Truth:
    """The private side of an update: kept for scoring, never shown to an attack.

    Of a mean, batches and masks are those of all participants one after the other, step by step.

    Attributes:
        batches: the batch of every local step, as the model saw it.
        masks: the dropout masks of every local step, in call order.
        raw: the update before the defenses that change uploads.
        private: the batch of every local step as it was drawn, before augmentations and defenses; this is what an
            attacker is after.
        draws: what the components of every local step drew beside masks: a partner, a box, a weight.
    """

    batches: tuple[Batch, ...]
    masks: tuple[Masks, ...]
    raw: Update
    private: tuple[Batch, ...]
    draws: tuple[Draws, ...] = ()


@dataclass(frozen=True)
class WireEntry:
    """What the server saw at once: one client's update exactly as it arrived, or the mean of a round's updates.

    Attributes:
        client: whose update it is; of a mean, the first participant.
        received: the weights it answers.
        update: of a mean, its examples are the total weight that the server learned.
        clients: all participants, ascending, when it is a mean; empty otherwise.
        earlier: by client, (round, received weights) of the rounds before in which an update of it counted, for
            clients that remember; empty otherwise.
    """

    round: int
    client: int
    received: Tensors
    update: Update
    clients: tuple[int, ...] = ()
    earlier: Mapping[int, tuple[tuple[int, Tensors], ...]] = field(
        default_factory=dict[int, tuple[tuple[int, Tensors], ...]]
    )


@dataclass(frozen=True)
class PublicKnowledge:
    """What the description of a defense or component tells an attacker who knows that it is in use.

    Attributes:
        source: its name.
        facts: by name. Attacks understand `noise_law` (gaussian or laplace) and `noise_scale` (standard deviation of
            what is added to every entry; absent where it is not one number), `noise_is_relative` (the scale is in units
            of each tensor's root mean square), `noised_share` (share of the entries that get the noise, if not all),
            `kept_share` (share of the entries that are sent; the others are zero), `unreliable` (names of parameters
            whose tensors are randomised or zeroed; a matching attacker does without them), `signs` (only signs are
            sent), `rounded` (entries are rounded, so that no equation holds exactly) and `norm` (longer gradients are
            scaled down to it). Of defenses inside the model: `noise_modules` (names of modules that return independent
            N(0, 1) noise) and `penalties` (by name of a module, the function from its output to what each example's
            loss gains). Of defenses that change the batch: `transforms` (functions of the inputs, one of which was
            used), `mixed_examples` (how many examples a mixture holds), `pasted_examples` (the same where every pixel
            stems from one of them; with `per_sample` each mixture has a rectangle of its own), `mixed_features` (the
            same of feature maps, behind the layer `at`) and `random_signs` (whether entries of the inputs have random
            signs). Private mechanisms state `clip` (largest norm of what one example or client adds), and
            `noise_multiplier` (standard deviation of the noise on the sum over `clip`) or `target_epsilon` (from which
            it follows); where the scale of an entry depends on the batch, they state no `noise_scale`.
    """

    source: str
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])


Unit = Literal["record", "client"]
Adjacency = Literal["add-or-remove", "replace"]


@dataclass(frozen=True)
class Mechanism:
    """Subsampled Gaussian noise as it is run in one round: what an accountant needs, and whom it protects from whom.

    Attributes:
        unit: what two neighbouring data sets differ in: one record of a client, or one client with all his records.
        adjacency: how they differ.
        noise_multiplier: standard deviation of the noise in units of the sensitivity under that adjacency.
        sampling_rate: probability that the unit takes part in a step, independent of all others; 1 for no sampling.
        steps: noisy steps a round.
        delta: of the (epsilon, delta) that is reported.
        against: who may see what, for the guarantee to hold, in words that follow "against".
        holds_against_server: whether the server is among them, with all that the threat model lets it see.
    """

    unit: Unit
    adjacency: Adjacency
    noise_multiplier: float
    sampling_rate: float
    steps: int
    delta: float
    against: str
    holds_against_server: bool = True


class ThreatModel(Config):
    """Who the attacker is and what he knows. Printed before a run and stored with it."""

    server: Server = "honest-but-curious"
    sees: View = "single-update"
    knows: tuple[Knowledge, ...] = ()


@dataclass(frozen=True)
class Observation:
    """Everything an attack gets. Built only by `fedsim.threat.observe.observe`.

    No path of references leads from here to the private batch or the true masks unless the threat
    model grants them.

    Attributes:
        threat: the threat model it was built under.
        model: the architecture with the weights the client received, in training mode.
        loss: the client's loss, ``loss(outputs, labels) -> scalar``.
        update: the update as it was on the wire, or the mean of a round's updates when the server sees only that; its
            number of examples is 0 unless the ``batch-size`` is known.
        spec: shape and number of classes; mean 0 and standard deviation 1 unless the
            ``input-statistics`` are known.
        local_steps: number of local steps behind the update.
        learning_rate: the client's step size, for updates of kind ``"delta"``.
        sites: where the model drops out, for the known batch size or one example; rates are 0 unless
            ``dropout-rates`` are known.
        batch_size: examples of the first step, or None; of a mean, those of all participants.
        labels: labels of the batch, or None; of a mean, those of all participants, one after the other; of several
            steps, those of the distinct examples in ascending order, which says nothing about batches.
        masks: the true masks of every local step, or None.
        public: descriptions of the defenses in use if ``defenses`` are known, and of the components if
            ``components`` are.
        hidden: trained parameters whose tensors the server does not see; they are missing in the update.
        optimizer: name of the client's optimizer, for updates of kind ``"delta"``.
        optimizer_settings: its settings by name.
        is_resumed: whether the optimizer went on with what it kept of earlier rounds.
        batch_sizes: examples of every local step, or None unless the ``batch-size`` is known.
        examples: distinct examples behind the update, or None unless the ``batch-size`` is known. Fewer than all
            ``batch_sizes`` together when the client passed over its examples more than once.
        draws: what the components of every local step drew, or None unless ``draws`` are known; of a mean, None.
        set_aside: tensors that arrived, but count as hidden since a known defense makes them unreliable. Nothing is
            matched with them; labels may be read off them.
        earlier: of the same client's updates in the attacked rounds before, ascending, each without `earlier` of its
            own; empty unless ``earlier-rounds`` are known, and for attacks that do not look over rounds.
    """

    threat: ThreatModel
    model: nn.Module
    loss: Loss
    update: Update
    spec: InputSpec
    local_steps: int
    learning_rate: float
    sites: tuple[DropoutSite, ...]
    batch_size: int | None
    labels: Tensor | None
    masks: tuple[Masks, ...] | None
    public: tuple[PublicKnowledge, ...]
    hidden: frozenset[str] = frozenset()
    optimizer: str = "sgd"
    optimizer_settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    is_resumed: bool = False
    batch_sizes: tuple[int, ...] | None = None
    examples: int | None = None
    draws: tuple[Draws, ...] | None = None
    set_aside: Tensors = field(default_factory=dict[str, Tensor])
    earlier: tuple[Observation, ...] = ()


Target = Literal["model", "update"]  # what a membership attack judges: the trained model, or one client's updates
TrainShadow = Callable[[Batch, Generator], Tensors]


@dataclass(frozen=True)
class ShadowPlan:
    """Shadow models that a membership attack wants; attacks with the same plan share them.

    Attributes:
        count: how many, even: every example of the pool is in the training set of exactly half of them.
        with_candidates: whether the pool holds the candidates beside the attacker's reference examples.
    """

    count: int
    with_candidates: bool


@dataclass(frozen=True)
class Shadow:
    """A model that the attacker trained himself, and on what.

    Attributes:
        weights: its state dict.
        candidates: which candidates were in its training set, boolean, shape (N,).
        reference: which reference examples were, boolean, shape (R,).
    """

    weights: Tensors
    candidates: Tensor
    reference: Tensor


@dataclass(frozen=True)
class WatchedUpdate:
    """One client's update as it was on the wire, and the weights that it answers."""

    round: int
    received: Tensors
    update: Update


@dataclass(frozen=True)
class MembershipObservation:
    """Everything a membership attack gets. Built only in `fedsim.threat.membership`.

    No path of references leads from here to the training set, or to which candidates are members.

    Attributes:
        candidates: N examples, members and others in an order that a seed shuffled.
        reference: R further examples that nobody trained on and that are no candidates: the attacker's own.
        model: the architecture with the final weights, in evaluation mode.
        loss: the client's loss, ``loss(outputs, labels) -> scalar``.
        weights: (round, state dict) of the global model after every watched round and after the last one, ascending.
        updates: what one client sent in the watched rounds, ascending; empty for attacks on the model.
        train_shadow: trains a model on given examples about as the federation trained its own.
        shadows: models that were trained so already, by plan.
    """

    candidates: Batch
    reference: Batch
    model: nn.Module
    loss: Loss
    weights: tuple[tuple[int, Tensors], ...]
    updates: tuple[WatchedUpdate, ...]
    train_shadow: TrainShadow
    shadows: Mapping[ShadowPlan, tuple[Shadow, ...]] = field(default_factory=dict[ShadowPlan, tuple[Shadow, ...]])


@dataclass(frozen=True)
class Step:
    """Progress of an attack: restart, iteration (from 1), the objective and the best guess so far.

    Attributes:
        guess: the dummy inputs at this iteration, normalised; detached.
    """

    restart: int
    iteration: int
    iterations: int
    objective: float
    best: float
    guess: Tensor


OnStep = Callable[[Step], None]


class Applicability(NamedTuple):
    """Whether an attack fits an observation; if not, why, in words that end a sentence."""

    holds: bool
    reason: str = ""


@dataclass(frozen=True)
class Reconstruction:
    """An attacker's guess.

    Attributes:
        inputs: guessed examples, normalised, shape (B, *spec.shape); of text, token numbers (N, T), negative where a
            guess has ended, for as many sentences as were found.
        labels: guessed or granted labels, shape (B,).
        masks: estimated dropout masks in [0, 1] in call order, or None when not estimated.
        objective: the attack's own objective at the guess.
        iterations: iterations used, over all restarts.
        best_iteration: iteration (from 1) of the guess within its restart.
        history: (iteration, objective) pairs of the winning restart, thinned.
        stopped: why it ended, for example ``"objective below threshold"``.
        notes: anything a reader of the record should know.
        facts: figures that explain the result, by name: numerical rank, condition number, restarts that converged.
        is_exact: whether the attack's own equations, more than its unknowns, hold up to rounding: no search could
            explain the update better.
        trained: the batch that the attack takes the model to have seen, labels as probabilities (B, K), in any order;
            None when it takes that for `inputs` and `labels` themselves.
        found: what else was read, by "component.what"; scored by the component of that name.
    """

    inputs: Tensor
    labels: Tensor
    masks: Masks | None
    objective: float
    iterations: int
    best_iteration: int
    history: tuple[tuple[int, float], ...]
    stopped: str
    notes: tuple[str, ...] = ()
    facts: Mapping[str, float] = field(default_factory=dict[str, float])
    is_exact: bool = False
    trained: Batch | None = None
    found: Tensors = field(default_factory=dict[str, Tensor])
