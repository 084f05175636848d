"""surplus: measure the information of a text's hidden states on tokens beyond the next one.

The attacker sees hidden states, as in split learning, and hidden states contain more than the head's next token. The
estimator is trained on public texts and evaluated on clients' texts, so only the scorer knows the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, NamedTuple, final

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedsim.components.probe.markov_categorical import estimated_surplus, network_surplus, spectral_alignment
from fedsim.core import seeding
from fedsim.core.best_step import TimedConfig
from fedsim.core.errors import NotApplicable, ScenarioError, reason
from fedsim.core.nets.kv_cache import stack_of
from fedsim.core.nets.kv_cache.stack import Weighted
from fedsim.core.registry import metric, question
from fedsim.generation.probing import layer_states
from fedsim.metrics.statistics import mean_interval
from fedsim.questions.base import Evidence, Question, QuestionContext
from fedsim.record import Finding, Interval
from fedsim.scenario.world import World
from fedsim.threat import hidden_states

_PERMUTATIONS = 10
Estimator = Literal["log-linear", "network"]


class Surplus(TimedConfig):
    """The number of tokens, directions and estimators of the measurement."""

    later: int = Field(default=1, ge=1, description="K - 1, number of tokens after the next token to measure")
    vocabulary: int = Field(
        default=50, ge=2, description="number of most frequent public tokens that are distinguished"
    )
    directions: int = Field(default=32, ge=1, description="strongest directions of the states that are read")
    estimators: tuple[Estimator, ...] = Field(default=("log-linear",), min_length=1, description="heads that estimate")


@metric(
    "surplus",
    title="surplus",
    summary="nats that a state says of later tokens, beyond the next token",
    over="finding",
    unit="nats",
    digits=3,
)
def surplus(nats: Sequence[Sequence[float]], generator: np.random.Generator, confidence: float = 0.95) -> Interval:
    """Return the mean over positions with its bootstrap interval over clients.

    Args:
        nats: by client, for each position: cost of the later tokens without the state minus cost with the state.
        generator: random source of the resamples.
        confidence: coverage of the interval.
    """
    return mean_interval(nats, generator, confidence)


@metric(
    "alignment",
    title="spectral alignment",
    summary="share of the next token's variance that whitened states explain",
    over="finding",
    form="percent",
    digits=1,
    limits=(0.0, 1.0),
)
def alignment(
    hidden: Tensor, tokens: Tensor, clients: Tensor, generator: np.random.Generator, confidence: float = 0.95
) -> Interval:
    """Return the alignment with its bootstrap interval over the clients' jackknife contributions.

    Args:
        hidden: states, shape (N, width).
        tokens: next token of each state as one-hot features, shape (N, V).
        clients: client of each state, shape (N,).
        generator: random source of the resamples.
        confidence: coverage of the interval.
    """
    whole, owners = spectral_alignment(hidden, tokens), clients.unique()
    other_alignments = [spectral_alignment(hidden[clients != owner], tokens[clients != owner]) for owner in owners]
    added = (len(owners) - 1) * (
        np.mean(other_alignments) - np.array(other_alignments)
    )  # jackknife without bias correction
    return mean_interval([[whole + part] for part in added.tolist()], generator, confidence)


class _Positions(NamedTuple):
    """Positions of public and of clients' texts with a state and all predicted tokens.

    Attributes:
        hidden_states: states (N, directions).
        tokens: next token and later tokens in the reduced vocabulary, shape (N, 1 + later).
        texts: index of each position's text (N,).
        clients: client of each text (N,), -1 for public texts.
    """

    hidden_states: Tensor
    tokens: Tensor
    texts: Tensor
    clients: Tensor


@final
@question("surplus", summary="what do hidden states reveal about tokens beyond the next token?", related="2507.19247")
class SurplusQuestion(Question[Surplus]):
    """Measures information surplus and spectral alignment of clients' states, each with permuted states as control."""

    metric: ClassVar[str] = "surplus"
    title: ClassVar[str] = "What do hidden states reveal beyond the next token?"
    summary: ClassVar[str] = (
        "Surplus is the information that the hidden state before a text's next token holds "
        "about the later tokens, given the next token; alignment is the share of the next "
        "token's variance that hidden states explain. Hidden states are the head's inputs on "
        "clients' texts, at the weights that the clients received."
    )
    method: ClassVar[str] = (
        "Heads learn from public texts; a surplus is a difference of two losses on clients' "
        "texts, so an estimate and no bound. Intervals are over clients. Negative controls "
        "permute the states over positions, and must be at chance: 0 for the surplus, and the "
        "permuted states' value for the alignment."
    )

    def describe_attacker(self) -> Iterator[str]:
        """Yield the observed states and the attacker's training data."""
        yield "It sees the head's input states on clients' texts, and learns from the states on the test set."

    def check(self, world: World) -> None:
        """Check that hidden states can be read and that the head is linear.

        Raises:
            ScenarioError: a check failed; the message gives the reason.
        """
        hidden_states.check(world, "surplus")
        stack = stack_of(world.models.workspace.model)
        if not isinstance(stack, Weighted) or stack.weight is None:
            raise ScenarioError(
                f"surplus: the head of model '{world.scenario.model.name}' does more than multiply states with a "
                "matrix. Choose another model."
            )

    def run(self, evidence: Evidence, work: QuestionContext) -> Iterator[Finding]:
        """Yield a finding and its control for each estimator, and for the alignment."""
        world = evidence.world
        rounds = len({entry.round for entry in evidence.journal.entries})
        of_rounds: list[_Positions] = []
        for number, shared in enumerate(hidden_states.shared_texts(world, evidence.journal.entries), 1):
            work.progress("states of texts: round", number, rounds)
            of_rounds.append(self._read(world, shared))
        for estimator in self.config.estimators:
            work.check_cancelled()
            yield from self._measure(world, of_rounds, estimator)
        yield from self._align(world, of_rounds[-1])  # each round has its own coordinates

    def _read(self, world: World, shared: hidden_states.SharedTexts) -> _Positions:
        """Return all positions, with enough later tokens, of public texts and of texts behind a round's updates."""
        dataset, stack = world.data.dataset, stack_of(shared.model)
        assert stack is not None
        assert isinstance(stack, Weighted)
        inputs = torch.cat((dataset.test.inputs, dataset.train.inputs[shared.examples]))
        public = len(dataset.test)
        reduced = self._reduce_vocabulary(dataset.test.inputs, inputs, dataset.spec.padding)
        texts, places = _places(inputs, dataset.spec.padding, 1 + self.config.later)
        with torch.no_grad():
            parts = layer_states(shared.model, inputs, [stack.depth - 1])
            hidden = torch.cat([stack.norm(part[0]) for part in parts])[texts, places].double()
        is_public = texts < public
        centred = hidden - hidden[is_public].mean(0)
        right = torch.linalg.svd(centred[is_public], full_matrices=False).Vh[: self.config.directions]
        tokens = torch.stack([reduced[texts, places + step] for step in range(1, 2 + self.config.later)], 1)
        owners = torch.cat((torch.full((public,), -1), shared.clients))
        return _Positions(centred @ right.T, tokens, texts, owners[texts])

    def _reduce_vocabulary(self, public: Tensor, inputs: Tensor, padding: int | None) -> Tensor:
        """Return tokens as their frequency rank among public tokens; all rare tokens share the last rank."""
        counts = public.flatten()[public.flatten() != padding].bincount(minlength=int(inputs.max()) + 1)
        known = counts.topk(min(self.config.vocabulary, int((counts > 0).sum())) - 1).indices
        numbers = torch.full_like(counts, len(known))
        numbers[known] = torch.arange(len(known))
        return numbers[inputs]

    def _measure(self, world: World, of_rounds: Sequence[_Positions], estimator: Estimator) -> Iterator[Finding]:
        finding = Finding(question="surplus", label=f"surplus, {estimator}", metric="surplus", chance_level=0.0)
        for label, role in ((finding.label, "attack"), (f"{finding.label}, states permuted", "negative-control")):
            known = finding.model_copy(update={"label": label, "role": role, "scope": _about(of_rounds)})
            try:
                generator = seeding.generator(world.scenario.seed, label)
                nats = [
                    self._nats(positions, estimator, role == "negative-control", generator) for positions in of_rounds
                ]
            except NotApplicable as error:
                yield known.model_copy(update={"failure": reason(error)})
                continue
            source = np.random.default_rng(seeding.derive(world.scenario.seed, "bootstrap"))
            clients = torch.cat([positions.clients[positions.clients >= 0] for positions in of_rounds])
            all_nats = torch.cat(nats)
            value = surplus(
                [all_nats[clients == owner].tolist() for owner in clients.unique()], source, _coverage(world)
            )
            yield known.model_copy(update={"value": value})

    def _nats(
        self, positions: _Positions, estimator: Estimator, is_control: bool, generator: torch.Generator
    ) -> Tensor:
        """Return the surplus (N,) at every position of clients' texts, summed over the later tokens."""
        hidden, tokens, texts, clients = positions
        if is_control:
            hidden = hidden[torch.randperm(len(hidden), generator=generator)]
        total = torch.zeros(int((clients >= 0).sum()), dtype=torch.double)
        for step in range(1, 1 + self.config.later):
            context = F.one_hot(tokens[:, :step], int(tokens.max()) + 1).flatten(1).double()
            setting = (context, hidden, tokens[:, step], texts, clients < 0)
            without_states, with_states = (
                network_surplus(*setting, generator) if estimator == "network" else estimated_surplus(*setting)
            )
            total += without_states - with_states
        return total

    def _align(self, world: World, positions: _Positions) -> Iterator[Finding]:
        is_private = positions.clients >= 0
        hidden, clients = positions.hidden_states[is_private], positions.clients[is_private]
        features = F.one_hot(positions.tokens[is_private, 0]).double()
        finding = Finding(question="surplus", label="alignment", metric="alignment", scope=_about([positions]))
        generator = seeding.generator(world.scenario.seed, "permuted alignment")
        mixed = [hidden[torch.randperm(len(hidden), generator=generator)] for _ in range(1 + _PERMUTATIONS)]
        control = {"label": "alignment, states permuted", "role": "negative-control"}
        try:
            chance = float(np.mean([spectral_alignment(permuted, features) for permuted in mixed[1:]]))
            for read, extra in ((hidden, {}), (mixed[0], control)):
                source = np.random.default_rng(seeding.derive(world.scenario.seed, "bootstrap"))
                value = alignment(read, features, clients, source, _coverage(world))
                yield finding.model_copy(update={**extra, "value": value, "chance_level": chance})
        except NotApplicable as error:
            yield finding.model_copy(update={"failure": reason(error)})


def _places(inputs: Tensor, padding: int | None, offset: int) -> tuple[Tensor, Tensor]:
    """Return text index and position, each of shape (N,), of every state with at least `offset` later tokens."""
    is_token = inputs[:, offset:] != padding if padding is not None else torch.ones_like(inputs[:, offset:]).bool()
    texts, places = is_token.nonzero(as_tuple=True)
    return texts, places


def _about(of_rounds: Sequence[_Positions]) -> dict[str, str | int | float]:
    return {"positions": sum(int((positions.clients >= 0).sum()) for positions in of_rounds)}


def _coverage(world: World) -> float:
    return world.scenario.scoring.confidence
