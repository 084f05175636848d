"""neurons: infer words of a client's text from the MLP neurons that its update changed most.

The weights of an MLP neuron are a direction of the hidden state, and the model's head maps a direction to tokens. The
server names the neurons whose rows changed most relative to their change for public texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import ClassVar, NamedTuple, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.core.low_rank import LowRankLinear
from fedsim.components.probe.head_neurons import Weights, moved_neurons, name_neurons, neuron_rows
from fedsim.core import seeding
from fedsim.core.best_step import TimedConfig
from fedsim.core.errors import ScenarioError
from fedsim.core.registry import metric, question
from fedsim.core.types import Tensors, WireEntry
from fedsim.metrics.statistics import mean_interval
from fedsim.questions.base import Evidence, Question, QuestionContext
from fedsim.record import Finding, Interval
from fedsim.scenario.world import World
from fedsim.threat import hidden_states
from fedsim.threat.changes import simulated_changes

_FEWEST = 2  # texts: the control compares with another client's text


class Neurons(TimedConfig):
    """The examined layers, and the numbers of neurons, words and public texts."""

    weights: Weights = Field(default="up_proj", description="layers with the inspected neurons")
    top_neurons: int = Field(default=50, ge=1, description="number of most changed neurons that are named")
    words: int = Field(default=20, ge=1, description="tokens that are named of each update")
    common: float = Field(
        default=0.1, ge=0, le=1, description="share of public texts above which a token is too common to be named"
    )
    public: int = Field(default=6, ge=1, description="public texts that say how far each neuron moves anyway")


@metric(
    "words_named",
    title="words named",
    summary="share of the named tokens that occur in the text",
    over="finding",
    form="percent",
    digits=1,
    limits=(0.0, 1.0),
)
def words_named(
    shares: Sequence[Sequence[float]], generator: np.random.Generator, confidence: float = 0.95
) -> Interval:
    """Return the mean share with its bootstrap interval over clients.

    Args:
        shares: by client, for each update: share of the named tokens that the text contains.
        generator: random source of the resamples.
        confidence: coverage of the interval.
    """
    return mean_interval(shares, generator, confidence)


class _Named(NamedTuple):
    """The tokens named for an update, its client, and the tokens of its text."""

    words: list[int]
    client: int
    text: set[int]


@final
@question("neurons", summary="which words name the neurons that a client's text moved?", related="2501.02688")
class NeuronQuestion(Question[Neurons]):
    """Names the neurons whose rows an update changed by the tokens of the model's head."""

    metric: ClassVar[str] = "words_named"
    title: ClassVar[str] = "Which words name the moved neurons?"
    summary: ClassVar[str] = (
        "The model's head names each neuron of its MLPs by the tokens with the most similar "
        "output rows. The server takes the names of the neurons that a client's update moved "
        "most, beyond how far public texts move them, and leaves out common tokens."
    )
    method: ClassVar[str] = (
        "A named token is correct if it occurs in the client's text. Intervals are over "
        "clients. The negative control, which is also the chance level, compares the same "
        "tokens with the texts of the other clients."
    )

    def describe_attacker(self) -> Iterator[str]:
        """Yield the number of named tokens and of public texts."""
        yield (
            f"It names {self.config.words} tokens of every attacked update, and has computed the updates of "
            f"{self.config.public} texts of the test set in each round."
        )

    def check(self, world: World) -> None:
        """Check that the head is readable, that clients train the layer, and that the server sees single updates."""
        hidden_states.check(world, "neurons")
        if world.scenario.threat.view != "single-update":
            raise ScenarioError("neurons: a sum has no single text. Expected threat.view = 'single-update'.")
        trained = {name: parameter.detach() for name, parameter in world.models.parameters.items()}
        if not weight_changes(world.models.workspace.model, trained, self.config.weights):
            raise ScenarioError(
                f"neurons.weights: clients train no layer '{self.config.weights}'. Train this layer, or choose another."
            )

    def run(self, evidence: Evidence, work: QuestionContext) -> Iterator[Finding]:
        """Yield the finding and its negative control."""
        world, named = evidence.world, list[_Named]()
        for _, group in groupby(evidence.journal.entries, key=lambda entry: entry.round):
            named += self._names_of(world, list(group), work)
        finding = Finding(question="neurons", label="names of moved neurons", metric="words_named")
        if len(named) < _FEWEST:
            yield finding.model_copy(update={"failure": "fewer than two updates have texts to compare"})
            return
        texts = [neuron.text for neuron in named]
        control_shares = [
            float(np.mean([_share(neuron.words, text) for place, text in enumerate(texts) if place != number]))
            for number, neuron in enumerate(named)
        ]
        known = finding.model_copy(
            update={"chance_level": float(np.mean(control_shares)), "scope": {"updates": len(named)}}
        )
        control = {"label": "the same names, other clients' texts", "role": "negative-control"}
        for shares, extra in (([_share(neuron.words, neuron.text) for neuron in named], {}), (control_shares, control)):
            source = np.random.default_rng(seeding.derive(world.scenario.seed, "bootstrap"))
            by_client = [
                [share for share, neuron in zip(shares, named, strict=True) if neuron.client == client]
                for client in dict.fromkeys(neuron.client for neuron in named)
            ]
            value = words_named(by_client, source, world.scenario.scoring.confidence)
            yield known.model_copy(update={**extra, "value": value})

    def _names_of(self, world: World, entries: Sequence[WireEntry], work: QuestionContext) -> Iterator[_Named]:
        """Yield the named tokens of each update of a round."""
        config, dataset, first = self.config, world.data.dataset, entries[0]
        source = seeding.generator(world.scenario.seed, "public texts of neurons", first.round)
        size = world.scenario.federation.batch_size
        order = torch.randperm(len(dataset.test), generator=source)[: config.public * size]
        usual: dict[str, Tensor] = {}
        for number, change in enumerate(simulated_changes(world, first, order.split(size)), 1):
            work.progress("neurons: public texts", number, config.public)
            for name, moved in self._changes(world.models.load_weights(first.received_weights), change).items():
                sizes = moved.norm(dim=self._across, keepdim=True)
                usual[name] = usual.get(name, torch.zeros_like(sizes)) + sizes
        model, common = world.models.load_weights(first.received_weights), self._common(world)
        for entry in entries:
            moved = self._changes(model, entry.update.tensors)
            ratios = {name: torch.where(usual[name] > 0, rows / usual[name], 0.0) for name, rows in moved.items()}
            numbers = torch.cat([batch.unique() for batch in world.data.numbers_of(entry.round, entry.client)])
            text = set(dataset.train.inputs[numbers[numbers < len(dataset.train)]].flatten().tolist())
            yield _Named(self._words(model, ratios, common), entry.client, text)

    @property
    def _across(self) -> int:
        """The dimension of the weight matrix along one neuron's weights."""
        return 0 if self.config.weights == "down_proj" else 1

    def _changes(self, model: nn.Module, change: Tensors) -> Tensors:
        """Return the change of the layers' weights by parameter name."""
        changes = weight_changes(model, change, self.config.weights)
        return {f"{name}.weight": moved for name, moved in changes.items()}

    def _words(self, model: nn.Module, ratios: Tensors, common: Tensor) -> list[int]:
        """Return the tokens with the largest summed probability over the neurons that changed most."""
        neurons = moved_neurons(ratios, self.config.weights)[: self.config.top_neurons]
        rows = neuron_rows(model, self.config.weights)
        named = name_neurons(model, torch.stack([rows[name.removesuffix(".weight")][row] for name, row in neurons]))
        votes = Counter[int]()
        for tokens, shares in zip(named.tokens.tolist(), named.probabilities.tolist(), strict=True):
            for token, share in zip(tokens, shares, strict=True):
                votes[token] += share
        return [token for token, _ in votes.most_common() if not common[token]][: self.config.words]

    def _common(self, world: World) -> Tensor:
        """Return the mask of tokens that occur in too many public texts, booleans (V,)."""
        dataset = world.data.dataset
        counts = torch.cat([text.unique() for text in dataset.test.inputs]).bincount(minlength=dataset.spec.classes)
        return counts > self.config.common * len(dataset.test)


def weight_changes(model: nn.Module, change: Tensors, weights: Weights) -> dict[str, Tensor]:
    """Return the weight change (out, in) of each selected layer; of a LoRA adapter to first order, dB A + B dA.

    Args:
        model: model with the weights before the change.
        change: by parameter: weights after minus weights before, or a gradient.
        weights: name of the selected layers.
    """
    changes: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] != weights:
            continue
        if f"{name}.weight" in change:
            changes[name] = change[f"{name}.weight"]
        if isinstance(module, LowRankLinear) and f"{name}.lora_b.weight" in change:
            a, b = module.lora_a.weight.detach(), module.lora_b.weight.detach()
            of_a = change.get(f"{name}.lora_a.weight", torch.zeros_like(a))
            changes[name] = module.scale * (change[f"{name}.lora_b.weight"] @ a + b @ of_a)
    return changes


def _share(words: Sequence[int], text: set[int]) -> float:
    return sum(word in text for word in words) / max(len(words), 1)
