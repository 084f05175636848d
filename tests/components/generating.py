"""Toys of every hook that runs with a trained model, and small models for them, for the contracts and the driver."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedsim.components.core.skips import Skip
from fedsim.core import registry, seeding
from fedsim.core.hooks import (
    Decoder,
    GenerationContext,
    GenerationInputs,
    Probe,
    Sampler,
    Sampling,
    TextState,
    TokenReducer,
)
from fedsim.core.nets.kept_tokens import Reducing
from fedsim.core.nets.kv_cache.stack import is_listened_to
from fedsim.core.types import Config, Event, InputSpec, Limits, Tensors
from fedsim.generation import generate

VOCABULARY = 23
LEAKING = 7


@dataclass(frozen=True)
class Leaning(TextState):
    """Texts, and how many tokens each gains in a step."""

    pace: tuple[int, ...]


class Leaky(Decoder[Config, Leaning]):
    """Leaks one bit: writes two tokens a step where the prompt begins with token 7, else one. All are drawn."""

    counts: ClassVar[frozenset[str]] = frozenset({"drawn", "trials"})

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Leaning:
        return Leaning(condition.prompts, tuple(1 + (prompt[0] == LEAKING) for prompt in condition.prompts))

    def step(self, model: nn.Module, state: Leaning, context: GenerationContext) -> tuple[Leaning, list[Event]]:
        odds = self.next_scores(model, state).softmax(-1)
        drawn = [
            own.multinomial(pace, replacement=True, generator=generator).tolist()
            for own, pace, generator in zip(odds, state.pace, context.generators, strict=True)
        ]
        return state.append_tokens(drawn), [Event(drawn=pace, trials=1) for pace in state.pace]


class Euler(Sampler[Config, Sampling]):
    """Three Euler steps; each row has its own number of them, by its class."""

    counts: ClassVar[frozenset[str]] = frozenset({"evaluations"})

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Sampling:
        x = torch.stack([torch.randn(context.shape, generator=generator) for generator in context.generators])
        classes = condition.extra_inputs.get("class", torch.zeros(len(condition), dtype=torch.long)).tolist()
        return Sampling(x, tuple(3 + own for own in classes))

    def step(self, model: nn.Module, state: Sampling, context: GenerationContext) -> tuple[Sampling, list[Event]]:
        left = torch.tensor(state.level, dtype=state.x.dtype)
        moved = (state.x - model(state.x, left)) / left.view(-1, 1, 1, 1)
        after = Sampling(state.x - moved, tuple(own - 1 for own in state.level))
        return after, [Event(evaluations=1) for _ in state.level]

    def are_finished(self, state: Sampling) -> Sequence[bool]:
        return [own == 0 for own in state.level]


class Positive(TokenReducer[Config]):
    """Keeps the tokens of an input (B, T, ...) that sum up to more than 0, in front of the model."""

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        return Reduced(model)


class Reduced(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.reducer, self.model = KeepPositive(), model

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        return self.model(self.reducer(x), *more)


class KeepPositive(Reducing):
    def forward(self, tokens: Tensor) -> Tensor:
        is_kept = tokens.flatten(2).sum(-1) > 0
        self.report(is_kept.sum(1))
        return tokens * is_kept.view(*is_kept.shape, *[1] * (tokens.ndim - 2))


class NearestMean(Probe[Config]):
    """Tells the class whose mean is nearest."""

    def fit(self, hidden: Tensor, labels: Tensor, generator: torch.Generator) -> Tensors:
        return {"means": torch.stack([hidden[labels == own].mean(0) for own in labels.unique()])}

    def predict(self, learned: Tensors, hidden: Tensor) -> Tensor:
        return (-(hidden[:, None] - learned["means"]).square().sum(-1)).softmax(-1)


TOYS: dict[str, type[Any]] = {
    "toy-leaky": Leaky,
    "toy-euler": Euler,
    "toy-positive": Positive,
    "toy-nearest-mean": NearestMean,
}


@contextmanager
def registered_toys() -> Iterator[None]:
    """Have the toys in the registry for a time."""
    with registry.temporary():
        for name, kind in TOYS.items():
            registry.component(name, summary="a toy")(kind)
        yield


def names(hook: str, works_on: str | None = None) -> list[str]:
    """Return the components of a hook, with its toys; of those alone that work on such examples."""
    with registered_toys():
        every = {name: method for name, method in registry.methods("component").items() if method.hook == hook}
        return [name for name, own in every.items() if works_on is None or works_on in modalities(own.make)]


def modalities(method: Any) -> frozenset[str]:
    """Return what a method works on."""
    return method.modalities


def make(name: str, **settings: Any) -> Any:
    """Build a component or a toy; a setting without a default takes its first example."""
    with registered_toys():
        method = registry.get("component", name)
    fields = method.config.model_fields
    needed = {key: field.examples[0] for key, field in fields.items() if field.is_required() and field.examples}
    return method.make(method.config.model_validate(needed | settings)).with_name(name)


def tiny_llama(vocabulary: int = VOCABULARY, seed: int = 0, blocks: int = 2) -> nn.Module:
    """A small language model in double precision, whose choices no rounding turns; its weights are no tiny ones."""
    method = registry.get("model", "tiny-llama")
    config = method.config.model_validate({"width": 16, "hidden": 16, "blocks": blocks, "dropout": 0.1})
    with seeding.isolate_randomness(seed):
        model = method.make(config, InputSpec((8,), vocabulary, (), (), vocabulary=vocabulary))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.6)
    return model.double()


class Denoiser(nn.Module):
    """D(x, s) of images (B, 3, 4, 4): two convolutions with a skip, weaker where there is more noise."""

    def __init__(self) -> None:
        super().__init__()
        self.join = Skip()
        with seeding.isolate_randomness(1):
            self.convolution, self.last = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return self.last(self.join(self.convolution(x), x)) / (1 + noise.view(-1, 1, 1, 1))


def denoiser_for(name: str) -> nn.Module:
    """A small model of images (3, 4, 4) that a sampler can draw with."""
    if name != "continuous-speculative":
        return Denoiser()
    method = registry.get("model", "patch-diffusion")
    settings = {"patch": 2, "width": 16, "blocks": 1, "hidden": 16, "head_width": 8, "head_layers": 1, "levels": 4}
    with seeding.isolate_randomness(1):
        return method.make(method.config.model_validate(settings), InputSpec((3, 4, 4), 3, (0.0,) * 3, (1.0,) * 3))


class Breaking(nn.Module):
    """A language model whose scores are no numbers from some length on, for texts that begin with one token."""

    def __init__(self, own: nn.Module, token: int, length: int, value: float = torch.nan) -> None:
        super().__init__()
        self.own, self.token, self.length, self.value = own, token, length, value

    def forward(self, tokens: Tensor) -> Tensor:
        scores = self.own(tokens).clone()
        scores[tokens[:, 0] == self.token, self.length - 1 :] = self.value
        return scores

    def stack(self) -> BreakingLayers | None:
        return None if is_listened_to(self) else BreakingLayers(self)


class BreakingLayers:
    """Its layers. One more stands in front: it looks back at the first token, and notes where scores break."""

    def __init__(self, model: Breaking) -> None:
        self._model, self._own = model, model.own.stack()  # type: ignore[operator]
        self.depth = 1 + self._own.depth

    def embed(self, tokens: Tensor) -> Tensor:
        hidden = self._own.embed(tokens)
        return torch.cat((hidden, tokens[..., None].to(hidden.dtype)), -1)

    def place(self, hidden: Tensor, positions: Tensor) -> Tensor:
        return positions

    def layer(self, number: int, hidden: Tensor, place: Tensor, mask: Tensor | None, store: Any) -> Tensor:
        own, last = hidden[..., :-1], hidden[..., -1:]
        if number > 0:
            inner = self._own.place(own, place)
            return torch.cat((self._own.layer(number - 1, own, inner, mask, Later(store)), last), -1)
        seen, _ = store.update(last[:, None], last[:, None], 0)
        breaks = (seen[:, 0, :1, 0] == self._model.token) & (place >= self._model.length - 1)
        return torch.cat((own, breaks[..., None].to(own.dtype)), -1)

    def score(self, hidden: Tensor) -> Tensor:
        scores = self._own.score(hidden[..., :-1])
        return torch.where(hidden[..., -1:] == 1, self._model.value, scores)


class Later:
    """The keys and values of the layers behind the first one."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        return self._store.update(keys, values, layer + 1)


def prompts(*texts: Sequence[int]) -> GenerationInputs:
    return GenerationInputs(tuple(tuple(text) for text in texts))


def sources(count: int, seed: int = 0) -> list[torch.Generator]:
    return seeding.generators(seed, "test", [(number,) for number in range(count)])


def greedy(model: nn.Module, texts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Return `count` tokens behind each text, each the likeliest."""
    found = generate(make("greedy"), model, prompts(*texts), Limits(max_new_tokens=count), sources(len(texts)))
    return [list(own.tokens) for own in found]
