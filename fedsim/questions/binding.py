"""binding: infer the value of one attribute from a known value of another and a text's hidden states.

The attacker sees hidden states, as in split learning. A hyperdimensional probe, trained on public texts with known
values, maps states to codes in which two values are bound. Unbinding the known value yields the wanted value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, NamedTuple, final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsim.components.probe.hyperdimensional_probe import (
    HyperdimensionalProbe,
    HyperdimensionalProbeConfig,
    bind,
    extract,
    make_codebook,
    pool_layers,
)
from fedsim.core import seeding
from fedsim.core.best_step import TimedConfig
from fedsim.core.errors import ScenarioError, did_you_mean, reason
from fedsim.core.nets.kv_cache import stack_of
from fedsim.core.registry import question
from fedsim.core.types import Attribute
from fedsim.generation.probing import layer_states
from fedsim.metrics.attributes import share_read
from fedsim.questions.base import Evidence, Question, QuestionContext
from fedsim.record import Finding
from fedsim.scenario.world import World
from fedsim.threat import hidden_states
from fedsim.threat.changes import permute_labels

_PERMUTATIONS = 5


class Binding(TimedConfig):
    """The two bound attributes, and the settings of the probe."""

    known_attribute: str = Field(min_length=1, description="attribute of a text with a known value")
    target_attribute: str = Field(min_length=1, description="attribute to infer")
    means: int = Field(default=5, ge=1, description="k, means of the states of the upper half of the layers")
    threshold: float = Field(default=0.1, ge=0, le=1, description="least cosine of a code that counts as an answer")
    probe: HyperdimensionalProbeConfig = HyperdimensionalProbeConfig()


class _Texts(NamedTuple):
    """Pooled states (N, width), and the values of both attributes (N,)."""

    pooled_states: Tensor
    known_values: Tensor
    target_values: Tensor


@final
@question(
    "binding", summary="which value belongs to a known value, from hidden states of a text?", related="2509.25045"
)
class BindingQuestion(Question[Binding]):
    """Unbinds the known value from the code of a text's last-token state."""

    metric: ClassVar[str] = "attribute_balanced_accuracy"
    title: ClassVar[str] = "What belongs together?"
    summary: ClassVar[str] = (
        "A hyperdimensional probe learns from public texts to map the states of the last token "
        "to the product of two codes, of a known and of a wanted value. For a client's text it "
        "infers the wanted value by unbinding the known value from the product."
    )
    method: ClassVar[str] = (
        "Each value has equal weight; intervals are over clients. The answer is the value with "
        "the largest cosine; a missing answer is wrong. The control learns from public texts "
        "with permuted wanted values."
    )

    def describe_attacker(self) -> Iterator[str]:
        """Yield the wanted attribute, the observed states and the attacker's knowledge."""
        yield (
            "It sees the states of the last token of clients' texts in the upper half of the "
            f"model's layers, knows their {self.config.known_attribute}, and infers their "
            f"{self.config.target_attribute}. It knows both for the test set."
        )

    def check(self, world: World) -> None:
        """Check that the data have both attributes, and that hidden states can be read."""
        hidden_states.check(world, "binding")
        attributes = world.data.dataset.attributes
        for key in ("known_attribute", "target_attribute"):
            name = getattr(self.config, key)
            if name not in attributes:
                raise ScenarioError(
                    f"binding.{key}: data '{world.scenario.data.name}' has no attribute '{name}'."
                    f"{did_you_mean(name, attributes) if attributes else ' It has none.'}"
                )
        if self.config.known_attribute == self.config.target_attribute:
            raise ScenarioError(
                f"binding.target_attribute: '{self.config.target_attribute}' is known already. Ask for another "
                "attribute."
            )
        upper = len(self._layers(world))
        if self.config.means > upper:
            raise ScenarioError(
                f"binding.means: {self.config.means}, expected at most {upper}, the layers of the upper half."
            )

    def run(self, evidence: Evidence, work: QuestionContext) -> Iterator[Finding]:
        """Yield the finding and its negative control."""
        world, right, truth, clients = evidence.world, list[Tensor](), list[Tensor](), list[Tensor]()
        finding = Finding(
            question="binding",
            label=f"{self.config.target_attribute} given {self.config.known_attribute}",
            method="hyperdimensional-probe",
            metric="attribute_balanced_accuracy",
        )
        rounds = len({entry.round for entry in evidence.journal.entries})
        try:
            for number, shared in enumerate(hidden_states.shared_texts(world, evidence.journal.entries), 1):
                work.progress("states of texts: round", number, rounds)
                public, private, senders = self._read(world, shared)
                right.append(self._extract(world, shared.number, public, private, work))
                truth.append(private.target_values)
                clients.append(senders)
        except Exception as error:  # a method may raise anything
            yield finding.model_copy(update={"failure": reason(error)})
            return
        scoring, all_rows = world.scenario.scoring, torch.cat(truth)
        scope = {"public": int(_has_both(*(attribute.test for attribute in self._pair(world))).sum())}
        known = finding.model_copy(update={"chance_level": 1 / len(all_rows.unique()), "scope": scope})
        rows = torch.cat(right, 1)
        controls = {"label": f"{finding.label}, values permuted", "role": "negative-control"}
        for share, extra in ((rows[0], {}), (rows[1:].mean(0), controls)):
            source = np.random.default_rng(seeding.derive(world.scenario.seed, "bootstrap"))
            value = share_read(share, all_rows, torch.cat(clients), source, scoring.confidence, scoring.resamples)
            yield known.model_copy(update={**extra, "value": value})

    def _pair(self, world: World) -> tuple[Attribute, Attribute]:
        attributes = world.data.dataset.attributes
        return attributes[self.config.known_attribute], attributes[self.config.target_attribute]

    def _layers(self, world: World) -> range:
        stack = stack_of(world.models.workspace.model)
        assert stack is not None
        return range(stack.depth // 2, stack.depth)

    def _read(self, world: World, shared: hidden_states.SharedTexts) -> tuple[_Texts, _Texts, Tensor]:
        """Return public texts and texts behind a round's updates, with both values known, and the latter's clients."""
        dataset, layers, pair = world.data.dataset, self._layers(world), self._pair(world)
        source = seeding.generator(world.scenario.seed, "first means", shared.number)
        starts = torch.randperm(len(layers), generator=source)[: self.config.means].tolist()

        def read(inputs: Tensor, known: Tensor, wanted: Tensor) -> _Texts:
            padding, pooled = dataset.spec.padding, list[Tensor]()
            last = (inputs != padding).sum(1) - 1 if padding is not None else torch.full((len(inputs),), -1)
            begin = 0
            for part in layer_states(shared.model, inputs, layers):
                of_last = part[:, torch.arange(part.shape[1]), last[begin : begin + part.shape[1]]]
                pooled += [pool_layers(of_text, starts) for of_text in of_last.transpose(0, 1)]
                begin += part.shape[1]
            return _Texts(torch.stack(pooled), known, wanted)

        is_public = _has_both(*(attribute.test for attribute in pair))
        is_private = _has_both(*(attribute.train[shared.examples] for attribute in pair))
        public = [dataset.test.inputs, *(attribute.test for attribute in pair)]
        numbers = shared.examples[is_private]
        private = [dataset.train.inputs[numbers], *(attribute.train[numbers] for attribute in pair)]
        return read(*(part[is_public] for part in public)), read(*private), shared.clients[is_private]

    def _extract(self, world: World, round_: int, public: _Texts, private: _Texts, work: QuestionContext) -> Tensor:
        """Return whether each text's value was inferred, shape (1 + permutations, N); row 0 uses the true values."""
        seed, values = world.scenario.seed, [len(attribute.values) for attribute in self._pair(world)]
        source = seeding.generator(seed, "permuted bindings", round_)
        taught = [public.target_values, *(permute_labels(public.target_values, source) for _ in range(_PERMUTATIONS))]
        probe, rows = HyperdimensionalProbe(self.config.probe), list[Tensor]()
        for wanted in taught:
            work.check_cancelled()
            generator = seeding.generator(seed, "binding", round_)
            book = make_codebook(sum(values), self.config.probe.dimension, generator)
            codes = bind(book[public.known_values], book[values[0] + wanted])
            codes = probe.encode(probe.learn(public.pooled_states, codes, generator), private.pooled_states)
            answers = [
                extract(code, book, [known], self.config.threshold).concept
                for code, known in zip(codes, private.known_values.tolist(), strict=True)
            ]
            wrong = -1  # no answer
            concepts = torch.tensor([wrong if answer is None else answer - values[0] for answer in answers])
            rows.append((concepts == private.target_values).double())
        return torch.stack(rows)


def _has_both(known: Tensor, wanted: Tensor) -> Tensor:
    return (known >= 0) & (wanted >= 0)
