"""The real model, beginnings of news that it writes on from, and what a text costs it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.core import registry, seeding
from fedsim.core.checkpoints import SMOLLM2, smollm2
from fedsim.core.hooks import Condition
from fedsim.core.losses import IGNORED
from fedsim.core.past import KeyValues, LayerStack, stack_of
from fedsim.core.types import Dataset, Generated, InputSpec, Limits, Tokenizer
from fedsim.generation import generate
from fedsim.models._checkpoint import causal_model

_TOKENS = 49_152


class Timed(nn.Module):
    """A model that counts the rows it is shown, and the seconds that it takes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.rows, self.seconds = module, 0, 0.0

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores."""
        begin = time.perf_counter()
        scores = self.module(tokens)
        self.rows, self.seconds = self.rows + len(tokens), self.seconds + time.perf_counter() - begin
        return scores

    def stack(self) -> LayerStack | None:
        """Return the layers, which count and are timed too."""
        layers = stack_of(self.module)
        return None if layers is None else _TimedLayers(self, layers)


class _TimedLayers:
    def __init__(self, timed: Timed, layers: LayerStack) -> None:
        self._timed, self._layers, self.depth = timed, layers, layers.depth

    def embed(self, tokens: Tensor) -> Tensor:
        self._timed.rows += len(tokens)
        return self._layers.embed(tokens)

    def place(self, hidden: Tensor, positions: Tensor) -> Any:
        return self._layers.place(hidden, positions)

    def layer(self, number: int, hidden: Tensor, place: Any, mask: Tensor | None, store: KeyValues) -> Tensor:
        begin = time.perf_counter()
        output = self._layers.layer(number, hidden, place, mask, store)
        self._timed.seconds += time.perf_counter() - begin
        return output

    def score(self, hidden: Tensor) -> Tensor:
        begin = time.perf_counter()
        scores = self._layers.score(hidden)
        self._timed.seconds += time.perf_counter() - begin
        return scores


def real_model(length: int = 64) -> nn.Module:
    """Return SmolLM2-135M-Instruct, for texts of any length."""
    return causal_model(smollm2(), InputSpec((length,), _TOKENS, (), (), vocabulary=_TOKENS)).eval()


def news(length: int, seed: int = 1) -> Dataset:
    """Return sentences of Lee's news in the model's tokens."""
    source = registry.get("dataset", "lee-news")
    return source.make(source.config.model_validate({"length": length, "tokenizer": SMOLLM2, "seed": seed}))


def beginnings(data: Dataset, count: int, tokens: int) -> Condition:
    """Return the first tokens of test sentences that are longer."""
    enough = (data.test.labels != IGNORED).sum(1) > tokens
    return Condition(tuple(tuple(row) for row in data.test.inputs[enough][:count, :tokens].tolist()))


def write(
    name: str, settings: dict[str, Any], model: nn.Module, condition: Condition, limits: Limits, tokenizer: Tokenizer
) -> list[Generated]:
    """Return what a decoder writes behind each beginning, with the same seeds for all decoders."""
    method = registry.get("component", name)
    decoder = method.make(method.config.model_validate(settings)).named(name)
    sources = seeding.generators(0, "written", [(row,) for row in range(len(condition))])
    return generate(decoder, model, condition, limits, sources, tokenizer=tokenizer)


@torch.no_grad()
def cost(model: nn.Module, prompt: Sequence[int], text: Sequence[int]) -> float:
    """Return -ln of the model's own probability of a text behind a prompt, a token."""
    scores = model(torch.tensor([[*prompt, *text]]))[0, len(prompt) - 1 : -1]
    return float(torch.nn.functional.cross_entropy(scores, torch.tensor(list(text))))
