"""Split training: parties hold parts of each example's inputs, one other holds the labels and the top of the model.

A round is a step. Its examples' numbers go to the parties, one vector an example and party goes up, and one comes back.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from fedsim.core import seeding
from fedsim.core.deadline import TimedConfig
from fedsim.core.types import Config, Dataset
from fedsim.questions.vertical.types import CutStep

ImagePart = Literal["all", "left", "right", "upper", "lower"]
Loss = Callable[[Tensor, Tensor], Tensor]
Cover = Callable[[CutStep, Tensor, int], Mapping[str, Tensor]]
"""Returns what parties get back: from the step as it would be, its labels, and its number from 0."""

_CHANNELS = 8
_SLOPE = 0.1
_HIDDEN = 64


class Party(Config):
    """Who holds which part of each example's inputs: columns of a table, or a part of an image."""

    name: str = Field(min_length=1)
    columns: tuple[int, int] | None = Field(
        default=None, description="of a table: the first, counted from 0, and the one behind the last"
    )
    part: ImagePart | None = Field(default=None, description="of an image")

    @model_validator(mode="after")
    def _has_one(self) -> Party:
        if (self.columns is None) == (self.part is None):
            raise ValueError(f"party '{self.name}' needs either columns, of a table, or part, of an image")
        if self.columns is not None and not 0 <= self.columns[0] < self.columns[1]:
            raise ValueError(f"party '{self.name}': columns are {list(self.columns)}, expected a first and a later one")
        return self

    def held(self, inputs: Tensor) -> Tensor:
        """Return the party's part of examples.

        Args:
            inputs: rows of a table (N, D), or images (N, C, H, W).

        Raises:
            ValueError: the examples are of the other kind, or have fewer columns.
        """
        if self.columns is not None:
            return self._columns(inputs, *self.columns)
        if inputs.dim() != 4:  # noqa: PLR2004 - (N, C, H, W)
            raise ValueError(f"party '{self.name}' holds a part of images, and the examples are none")
        height, width = inputs.shape[2] // 2, inputs.shape[3] // 2
        match self.part:
            case "left":
                return inputs[..., :width]
            case "right":
                return inputs[..., width:]
            case "upper":
                return inputs[:, :, :height]
            case "lower":
                return inputs[:, :, height:]
            case _:
                return inputs

    def _columns(self, inputs: Tensor, first: int, end: int) -> Tensor:
        if inputs.dim() != 2:  # noqa: PLR2004 - (N, D)
            raise ValueError(f"party '{self.name}' holds columns of a table, and the examples are none")
        if end > inputs.shape[1]:
            raise ValueError(f"party '{self.name}' holds columns up to {end}, and there are {inputs.shape[1]}")
        return inputs[:, first:end]


class SplitTraining(TimedConfig):
    """How parties train a model whose parts they hold."""

    parties: tuple[Party, ...] = Field(min_length=1)
    bottom: Literal["dense", "convolutions", "none"] = Field(default="dense", description="what a party computes")
    depth: int = Field(default=1, ge=1, description="dense layers of a bottom")
    width: int = Field(default=8, ge=1, description="numbers that a dense bottom sends of an example")
    activation: Literal["relu", "leaky-relu", "tanh"] = "relu"
    top: Literal["linear", "mlp"] = "linear"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    dropout_at: Literal["party", "cut", "top"] = Field(
        default="cut",
        description="in the party before its last layer, in the party before it sends, or in the top behind "
        "concatenation",
    )
    broadcast: bool = Field(default=False, description="whether every party gets back all parties' gradients")
    epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=32, ge=2)
    learning_rate: float = Field(default=0.01, gt=0, description="of Adam, at every party")

    @model_validator(mode="after")
    def _names_differ(self) -> SplitTraining:
        names = [party.name for party in self.parties]
        if len(set(names)) < len(names):
            raise ValueError("parties: two have the same name. Rename one")
        return self


@dataclass(frozen=True)
class SplitModel:
    """The parts of the model: the parties' bottoms by name, in the order in which the top reads them, and the top."""

    bottoms: Mapping[str, nn.Module]
    top: nn.Module

    def outputs(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the outputs of evaluation for the parties' parts of examples, shape (N, classes)."""
        for module in (*self.bottoms.values(), self.top):
            module.eval()
        with torch.no_grad():
            return self.top(torch.cat([bottom(parts[name]) for name, bottom in self.bottoms.items()], 1))

    def copied(self) -> SplitModel:
        """Return a copy that stays as it is, in mode of evaluation."""
        return SplitModel(
            {name: copy.deepcopy(bottom).eval() for name, bottom in self.bottoms.items()},
            copy.deepcopy(self.top).eval(),
        )


def make_model(settings: SplitTraining, shapes: Mapping[str, tuple[int, ...]], classes: int, seed: int) -> SplitModel:
    """Return a fresh model in double precision, with weights that follow from the seed.

    Args:
        settings: how its parts are built.
        shapes: of each party's part of one example, by name.
        classes: outputs of the top.
        seed: of the weights.
    """
    with seeding.isolate_randomness(seed):
        bottoms = {name: make_bottom(settings, shape) for name, shape in shapes.items()}
        widths = [bottom(torch.zeros(1, *shapes[name]).double()).shape[1] for name, bottom in bottoms.items()]
        return SplitModel(bottoms, _top(settings, sum(widths), classes))


def first_model(settings: SplitTraining, dataset: Dataset, seed: int) -> SplitModel:
    """Return the model of parties that share out a data set's inputs, before its first step.

    Args:
        settings: who holds what, and how the parts are built.
        dataset: whose inputs they hold.
        seed: of the scenario.

    Raises:
        ValueError: a party cannot hold its part of such examples.
    """
    one = dataset.train.inputs[:1]
    shapes = {party.name: tuple(party.held(one).shape[1:]) for party in settings.parties}
    return make_model(settings, shapes, dataset.spec.classes, seeding.derive(seed, "split weights"))


def make_bottom(settings: SplitTraining, shape: tuple[int, ...]) -> nn.Module:
    """Return a bottom for parts of one shape, with weights from torch's global generator."""
    if settings.bottom == "none":
        return nn.Flatten().double()
    if settings.bottom == "convolutions":
        layers = [
            nn.Conv2d(shape[0], _CHANNELS, 3, stride=2, padding=1), _activation(settings),
            *_dropout(settings, "party"),
            nn.Conv2d(_CHANNELS, _CHANNELS, 3, stride=2, padding=1), _activation(settings), nn.Flatten(),
        ]  # fmt: skip
        return nn.Sequential(*layers, *_dropout(settings, "cut")).double()
    layers, width = list[nn.Module]([nn.Flatten()]), torch.Size(shape).numel()
    for number in range(settings.depth):
        layers += _dropout(settings, "party") if number == settings.depth - 1 else []
        layers += [nn.Linear(width, settings.width), _activation(settings)]
        width = settings.width
    return nn.Sequential(*layers, *_dropout(settings, "cut")).double()


def _top(settings: SplitTraining, width: int, classes: int) -> nn.Module:
    layers = _dropout(settings, "top")
    if settings.top == "linear":
        return nn.Sequential(*layers, nn.Linear(width, classes)).double()
    return nn.Sequential(*layers, nn.Linear(width, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, classes)).double()


def _activation(settings: SplitTraining) -> nn.Module:
    return {"relu": nn.ReLU(), "leaky-relu": nn.LeakyReLU(_SLOPE), "tanh": nn.Tanh()}[settings.activation]


def _dropout(settings: SplitTraining, place: str) -> list[nn.Module]:
    return [nn.Dropout(settings.dropout)] if settings.dropout and settings.dropout_at == place else []


class Seat:
    """A party at work: its part of the model, and the step that it has begun."""

    def __init__(self, settings: SplitTraining, bottom: nn.Module, seed: int, place: int) -> None:
        """Sit down.

        Args:
            settings: how to train.
            bottom: is trained in place.
            seed: of the masks of dropout.
            place: the party's number among the parties, from 0.
        """
        self.bottom = bottom
        weights = list(bottom.parameters())
        self.optimizer = torch.optim.Adam(weights, lr=settings.learning_rate) if weights else None
        self._seed, self._place = seed, place
        self._vectors = torch.zeros(0)

    def embed(self, inputs: Tensor, number: int) -> Tensor:
        """Return what the party sends of examples, shape (B, width).

        Args:
            inputs: its parts of them, in double precision, first dimension the example.
            number: of the step, from 0.
        """
        self.bottom.train()
        with seeding.isolate_randomness(seeding.derive(self._seed, "split dropout", number, self._place)):
            self._vectors = self.bottom(inputs)
        return self._vectors.detach()

    def step(self, gradients: Tensor) -> None:
        """Train on what came back for the examples that were sent last, shape (B, width)."""
        if self.optimizer is None:
            return
        self._vectors.backward(gradients)
        self.optimizer.step()
        self.optimizer.zero_grad()


class CutWire:
    """How parties are reached: here they are parts of this program, and what they compute is what they send."""

    def embed(self, rows: Tensor, number: int, replayed: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return what each party sends of examples, shape (B, width).

        Args:
            rows: numbers of the examples, shape (B,).
            number: of the step, from 0.
            replayed: what this process computes in the parties' place.
        """
        return replayed

    def cut(self, down: Mapping[str, Tensor]) -> None:
        """Give each party what comes back for those examples, shape (B, width)."""


HERE = CutWire()


def train(
    settings: SplitTraining,
    model: SplitModel,
    parts: Mapping[str, Tensor],
    labels: Tensor,
    seed: int,
    cover: Cover = lambda step, _labels, _number: step.down,
    loss: Loss = F.cross_entropy,
    wire: CutWire = HERE,
) -> Iterator[tuple[int, CutStep]]:
    """Train a model in place, and yield each step with the number of its epoch from 1.

    The parts of the model that a step holds are those that made it, copied. This process computes the parties' parts
    even where a wire leads to others, who keep theirs: only so are they known afterwards.

    Args:
        settings: how to train.
        model: its parts.
        parts: the parties' parts of all examples, by name, in double precision, first dimension the example.
        labels: classes, shape (N,).
        seed: of the order of examples and the masks of dropout.
        cover: what parties get back in place of their gradients.
        loss: the mean loss, from outputs and labels.
        wire: how parties are reached.
    """
    seats = {name: Seat(settings, bottom, seed, place) for place, (name, bottom) in enumerate(model.bottoms.items())}
    optimizer = torch.optim.Adam(model.top.parameters(), lr=settings.learning_rate)
    number = 0
    for epoch in range(1, settings.epochs + 1):
        order = torch.randperm(len(labels), generator=seeding.generator(seed, "split batches", epoch))
        for rows in order.split(settings.batch_size):
            held = model.copied()
            replayed = {name: seat.embed(parts[name][rows], number) for name, seat in seats.items()}
            up = wire.embed(rows, number, replayed)
            with seeding.isolate_randomness(seeding.derive(seed, "split dropout", number)):
                down = _gradients(model.top.train(), up, labels[rows], loss)
            step = CutStep(rows, up, down, held.bottoms, held.top)
            step = replace(step, down=cover(step, labels[rows], number))
            wire.cut(step.down)
            for name, seat in seats.items():
                seat.step(step.down[name])
            optimizer.step()
            optimizer.zero_grad()
            yield epoch, step
            number += 1


def _gradients(top: nn.Module, up: Mapping[str, Tensor], labels: Tensor, loss: Loss) -> dict[str, Tensor]:
    """Return the gradients of what parties sent, and leave the top's in its parameters."""
    read = {name: vectors.clone().requires_grad_() for name, vectors in up.items()}
    loss(top(torch.cat(list(read.values()), 1)), labels).backward()
    return {name: vectors.grad for name, vectors in read.items() if vectors.grad is not None}
