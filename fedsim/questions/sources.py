"""sources: infer which client an example came from.

The server sees the updates of a round without client names, and holds an example of one of these clients. It compares
the clients by the example's loss under each client's model, or by the cosine of each update with the example's
gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.core import seeding
from fedsim.core.best_step import TimedConfig
from fedsim.core.errors import ScenarioError
from fedsim.core.examples import unique_examples
from fedsim.core.registry import metric, question
from fedsim.core.types import Batch, Tensors, WireEntry
from fedsim.metrics.attributes import share_read
from fedsim.questions.base import Evidence, Question, QuestionContext
from fedsim.record import Finding, Interval
from fedsim.scenario.world import World

_FEWEST = 2  # clients in a round; a single client needs no inference
_PERMUTATIONS = 10


class Sources(TimedConfig):
    """Number of examples."""

    examples: int = Field(default=20, ge=1, description="of each watched client and round, from behind its update")


@metric(
    "source_told",
    title="source told",
    summary="mean over clients of the share of examples assigned to the right client",
    over="finding",
    form="percent",
    digits=0,
    is_success_count=True,
    limits=(0.0, 1.0),
)
def source_told(guesses: Tensor, clients: Tensor, generator: np.random.Generator, confidence: float = 0.95) -> Interval:
    """Return the share with its bootstrap interval over clients; fewer than three clients give no bounds.

    Args:
        guesses: inferred clients, shape (N,), or (P, N) for P permutations.
        clients: true client of each example, shape (N,).
        generator: random source of the resamples.
        confidence: coverage of the interval.
    """
    right = (guesses == clients).double()
    return share_read(right.mean(0) if right.dim() > 1 else right, clients, clients, generator, confidence)


@final
@question("sources", summary="which client did an example come from?", related="2109.05659")
class SourceQuestion(Question[Sources]):
    """Infers an example's client from each client's update."""

    metric: ClassVar[str] = "source_told"
    title: ClassVar[str] = "Whose example is it?"
    summary: ClassVar[str] = (
        "The server sees the updates of a round without client names, and holds training "
        "examples of these updates. It assigns each example to the client with the lowest loss "
        "after its update, or with the update most similar to the example's gradient."
    )
    method: ClassVar[str] = (
        "Each client has equal weight; bootstrap intervals over clients; chance is 1 / (number "
        "of clients). The negative control permutes the clients' updates, and must be at "
        "chance."
    )

    def check(self, world: World) -> None:
        """Check that a round has several single updates, and that the task defines a loss per example."""
        threat = world.scenario.threat
        if threat.view != "single-update":
            raise ScenarioError("sources: a sum has no single source. Expected threat.view = 'single-update'.")
        if threat.victims < _FEWEST:
            raise ScenarioError(
                f"sources: threat.victims is {threat.victims}, so only a single source is "
                f"possible. Expected at least {_FEWEST}."
            )
        if not world.task.has_labels or world.task.draws:
            raise ScenarioError(
                f"sources: the loss of a single example is needed, and task '{world.task.name}' has none without draws."
            )

    def describe_attacker(self) -> Iterator[str]:
        """Yield the number of examples and the attacker's knowledge."""
        yield (
            f"It infers the client of up to {self.config.examples} examples of each attacked "
            "update. It holds these examples, and sees the round's updates without client "
            "names."
        )

    def run(self, evidence: Evidence, work: QuestionContext) -> Iterator[Finding]:
        """Yield a finding and its negative control for each score."""
        rounds = list(self._rounds(evidence))
        for label, score in _WAYS.items():
            scores = []
            for number, round_ in enumerate(rounds, 1):
                work.progress(f"{label}: round", number, len(rounds))
                scores.append(score(evidence.world, round_))
            yield from _findings(evidence.world, label, rounds, scores)

    def _rounds(self, evidence: Evidence) -> Iterator[_Round]:
        """Yield the watched rounds with counted updates of at least two clients, with examples of each client."""
        pairs = zip(evidence.journal.entries, evidence.truths, strict=True)
        for number, group in groupby(pairs, key=lambda pair: pair[0].round):
            rounds = [(entry, unique_examples([b for b in truth.original_batches if len(b)])) for entry, truth in group]
            if len(rounds) >= _FEWEST:
                source = seeding.generator(evidence.world.scenario.seed, "sources", number)
                yield _Round.of(rounds, self.config.examples, source)


@dataclass(frozen=True)
class _Round:
    """Updates of a round and examples of their clients; `sources` (N,) holds the index of each example's update."""

    entries: tuple[WireEntry, ...]
    examples: Batch
    sources: Tensor

    @classmethod
    def of(cls, rounds: Sequence[tuple[WireEntry, Batch]], limit: int, generator: torch.Generator) -> _Round:
        """Sample at most `limit` examples of each client, in random order."""
        chosen = [batch.select(torch.randperm(len(batch), generator=generator)[:limit]) for _, batch in rounds]
        sources = torch.cat([torch.full((len(examples),), place) for place, examples in enumerate(chosen)])
        order = torch.randperm(len(sources), generator=generator)
        return cls(tuple(entry for entry, _ in rounds), Batch.concat(chosen).select(order), sources[order])

    @property
    def numbers(self) -> Tensor:
        """The client of each update."""
        return torch.tensor([entry.client for entry in self.entries])

    @property
    def clients(self) -> Tensor:
        """The client of each example."""
        return self.numbers[self.sources]


def _loss_scores(world: World, round_: _Round) -> Tensor:
    """Return the negative loss of each example under each client's model, shape (N, K)."""
    return torch.stack(
        [-_losses(world, _client_weights(world, entry), round_.examples) for entry in round_.entries], dim=1
    )


def _alignment_scores(world: World, round_: _Round) -> Tensor:
    """Return the cosine of each example's gradient with each update, shape (N, K)."""
    model = _load_model(world, round_.entries[0].received_weights)
    parameters = {name: p for name, p in model.named_parameters() if name in round_.entries[0].update.tensors}
    updates = torch.stack([_flat(entry.update.tensors, parameters) for entry in round_.entries])
    gradients = []
    for place in range(len(round_.examples)):
        loss = world.task.loss(*world.task.answer(model, round_.examples.select(torch.tensor([place])), {}))
        slopes = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
        gradients.append(torch.cat([slope.flatten() for slope in slopes]))
    return nn.functional.cosine_similarity(torch.stack(gradients)[:, None], updates[None], dim=-1)


_WAYS: dict[str, Callable[[World, _Round], Tensor]] = {
    "loss under each model": _loss_scores,
    "agreement with each update": _alignment_scores,
}


def _findings(world: World, label: str, rounds: Sequence[_Round], scores: Sequence[Tensor]) -> Iterator[Finding]:
    finding = Finding(question="sources", label=label, metric="source_told")
    if not rounds:
        yield finding.model_copy(update={"failure": "no watched round has updates of two clients that counted"})
        return
    clients = torch.cat([round_.clients for round_ in rounds])
    guesses = _guess(rounds, scores)
    source = seeding.generator(world.scenario.seed, "permuted sources")
    permuted = torch.stack(
        [_guess(rounds, [_shuffle_scores(score, source) for score in scores]) for _ in range(_PERMUTATIONS)]
    )
    chance = float(np.mean([1 / len(round_.entries) for round_ in rounds]))
    scope = {"clients": len(clients.unique()), "rounds": len(rounds)}
    known = finding.model_copy(update={"chance_level": chance, "scope": scope})
    for role, name, guess in (("attack", label, guesses), ("negative-control", f"{label}, updates permuted", permuted)):
        draws = np.random.default_rng(seeding.derive(world.scenario.seed, "bootstrap"))
        value = source_told(guess, clients, draws, world.scenario.scoring.confidence)
        yield known.model_copy(update={"role": role, "label": name, "value": value})


def _guess(rounds: Sequence[_Round], scores: Sequence[Tensor]) -> Tensor:
    """Return the client with the highest score for each example of all rounds, shape (N,)."""
    return torch.cat([round_.numbers[score.argmax(1)] for round_, score in zip(rounds, scores, strict=True)])


def _shuffle_scores(scores: Tensor, generator: torch.Generator) -> Tensor:
    """Return scores (N, K) with permuted columns (updates)."""
    return scores[:, torch.randperm(scores.shape[1], generator=generator)]


def _client_weights(world: World, entry: WireEntry) -> Tensors:
    """Return a client's model: received weights minus the update, scaled by the server's rate for a gradient."""
    is_gradient = world.scenario.federation.algorithm == "fedsgd"
    rate = world.stack.server_optimizer.learning_rate if is_gradient else 1.0
    sent = {**entry.update.tensors, **entry.update.buffers}
    return {
        name: tensor - rate * sent[name] if name in sent else tensor for name, tensor in entry.received_weights.items()
    }


def _load_model(world: World, weights: Tensors) -> nn.Module:
    model = world.models.new().eval()
    model.load_state_dict(dict(weights))
    return model


@torch.no_grad()
def _losses(world: World, weights: Tensors, examples: Batch) -> Tensor:
    return world.task.losses(*world.task.answer(_load_model(world, weights), examples, {}))


def _flat(tensors: Tensors, like: dict[str, nn.Parameter]) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in like])
