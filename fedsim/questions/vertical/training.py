"""Split training: feature parties hold parts of each example's inputs, the label party the labels and the top model.

In each step the parties receive example indices, send cut-layer activations, and receive their gradients.
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
from fedsim.core.best_step import TimedConfig
from fedsim.core.types import Config, Dataset
from fedsim.questions.vertical.types import CutStep

ImagePart = Literal["all", "left", "right", "upper", "lower"]
Loss = Callable[[Tensor, Tensor], Tensor]
Cover = Callable[[CutStep, Tensor, int], Mapping[str, Tensor]]
"""Returns the gradients to send back, from the undefended step, its labels, and its number from 0."""

_CHANNELS = 8
_SLOPE = 0.1
_HIDDEN = 64


class Party(Config):
    """A feature party and its part of each example's inputs: columns of a table, or a part of an image."""

    name: str = Field(min_length=1)
    columns: tuple[int, int] | None = Field(
        default=None, description="of a table: the first index, from 0, and the index after the last"
    )
    part: ImagePart | None = Field(default=None, description="of an image")

    @model_validator(mode="after")
    def _has_one(self) -> Party:
        if (self.columns is None) == (self.part is None):
            raise ValueError(f"party '{self.name}' needs either columns, of a table, or part, of an image")
        if self.columns is not None and not 0 <= self.columns[0] < self.columns[1]:
            raise ValueError(
                f"party '{self.name}': columns are {list(self.columns)}, expected a first and a larger index"
            )
        return self

    def select_inputs(self, inputs: Tensor) -> Tensor:
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
            raise ValueError(f"party '{self.name}' holds columns up to {end}, but the data have {inputs.shape[1]}")
        return inputs[:, first:end]


class SplitTraining(TimedConfig):
    """Settings of the parties, the split model and its training."""

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
            raise ValueError("parties: two parties have the same name. Rename either")
        return self


@dataclass(frozen=True)
class SplitModel:
    """The parts of the model: the parties' bottoms by name, in the order of the top's input, and the top."""

    bottoms: Mapping[str, nn.Module]
    top: nn.Module

    def outputs(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the outputs in evaluation mode for the parties' parts of examples, shape (N, classes)."""
        for module in (*self.bottoms.values(), self.top):
            module.eval()
        with torch.no_grad():
            return self.top(torch.cat([bottom(parts[name]) for name, bottom in self.bottoms.items()], 1))

    def evaluation_copy(self) -> SplitModel:
        """Return a copy in evaluation mode."""
        return SplitModel(
            {name: copy.deepcopy(bottom).eval() for name, bottom in self.bottoms.items()},
            copy.deepcopy(self.top).eval(),
        )


def make_model(settings: SplitTraining, shapes: Mapping[str, tuple[int, ...]], classes: int, seed: int) -> SplitModel:
    """Return a new model in double precision, initialised from the seed.

    Args:
        settings: architecture of the parts.
        shapes: shape of each party's part of an example, by name.
        classes: number of outputs of the top.
        seed: seed of the weights.
    """
    with seeding.isolate_randomness(seed):
        bottoms = {name: make_bottom(settings, shape) for name, shape in shapes.items()}
        widths = [bottom(torch.zeros(1, *shapes[name]).double()).shape[1] for name, bottom in bottoms.items()]
        return SplitModel(bottoms, _top(settings, sum(widths), classes))


def first_model(settings: SplitTraining, dataset: Dataset, seed: int) -> SplitModel:
    """Return the initial model of parties that hold parts of a data set's inputs.

    Args:
        settings: the parties, and the architecture of the parts.
        dataset: source of the inputs.
        seed: the scenario's seed.

    Raises:
        ValueError: a party's part does not fit the examples.
    """
    example = dataset.train.inputs[:1]
    shapes = {party.name: tuple(party.select_inputs(example).shape[1:]) for party in settings.parties}
    return make_model(settings, shapes, dataset.spec.classes, seeding.derive(seed, "split weights"))


def make_bottom(settings: SplitTraining, shape: tuple[int, ...]) -> nn.Module:
    """Return a bottom for parts of the given shape, initialised from torch's global generator."""
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
    """A party in training: its part of the model, and the current step."""

    def __init__(self, settings: SplitTraining, bottom: nn.Module, seed: int, place: int) -> None:
        """Prepare the optimizer.

        Args:
            settings: settings of the training.
            bottom: bottom model, trained in place.
            seed: seed of the dropout masks.
            place: index of the party, from 0.
        """
        self.bottom = bottom
        weights = list(bottom.parameters())
        self.optimizer = torch.optim.Adam(weights, lr=settings.learning_rate) if weights else None
        self._seed, self._place = seed, place
        self._vectors = torch.zeros(0)

    def embed(self, inputs: Tensor, number: int) -> Tensor:
        """Return the party's activations of examples, shape (B, width).

        Args:
            inputs: its parts of the examples, in double precision, first dimension the example.
            number: number of the step, from 0.
        """
        self.bottom.train()
        with seeding.isolate_randomness(seeding.derive(self._seed, "split dropout", number, self._place)):
            self._vectors = self.bottom(inputs)
        return self._vectors.detach()

    def step(self, gradients: Tensor) -> None:
        """Train on the gradients of the last sent activations, shape (B, width)."""
        if self.optimizer is None:
            return
        self._vectors.backward(gradients)
        self.optimizer.step()
        self.optimizer.zero_grad()


class CutWire:
    """Connection to the parties. This base class is in-process: a party sends its replayed activations."""

    def embed(self, rows: Tensor, number: int, replayed: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return each party's activations of examples, shape (B, width).

        Args:
            rows: indices of the examples, shape (B,).
            number: number of the step, from 0.
            replayed: the activations that this process computes for the parties.
        """
        return replayed

    def cut(self, gradients: Mapping[str, Tensor]) -> None:
        """Send each party the gradients of the last activations, shape (B, width)."""


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
    """Train a model in place, and yield each step with its epoch number from 1.

    A step contains copies of the models that computed it. This process replays the parties' parts even if a wire leads
    to other processes, which do not reveal their models: the ground truth needs them.

    Args:
        settings: settings of the training.
        model: the split model.
        parts: the parties' parts of all examples, by name, in double precision, first dimension the example.
        labels: classes, shape (N,).
        seed: seed of the batches and the dropout masks.
        cover: defense that changes the returned gradients.
        loss: mean loss of outputs and labels.
        wire: connection to the parties.
    """
    seats = {name: Seat(settings, bottom, seed, place) for place, (name, bottom) in enumerate(model.bottoms.items())}
    optimizer = torch.optim.Adam(model.top.parameters(), lr=settings.learning_rate)
    number = 0
    for epoch in range(1, settings.epochs + 1):
        order = torch.randperm(len(labels), generator=seeding.generator(seed, "split batches", epoch))
        for rows in order.split(settings.batch_size):
            held = model.evaluation_copy()
            replayed = {name: seat.embed(parts[name][rows], number) for name, seat in seats.items()}
            embeddings = wire.embed(rows, number, replayed)
            with seeding.isolate_randomness(seeding.derive(seed, "split dropout", number)):
                gradients = _gradients(model.top.train(), embeddings, labels[rows], loss)
            step = CutStep(rows, embeddings, gradients, held.bottoms, held.top)
            step = replace(step, down=cover(step, labels[rows], number))
            wire.cut(step.down)
            for name, seat in seats.items():
                seat.step(step.down[name])
            optimizer.step()
            optimizer.zero_grad()
            yield epoch, step
            number += 1


def _gradients(top: nn.Module, embeddings: Mapping[str, Tensor], labels: Tensor, loss: Loss) -> dict[str, Tensor]:
    """Return the gradients of the parties' activations; the top's gradients stay in its parameters."""
    read = {name: vectors.clone().requires_grad_() for name, vectors in embeddings.items()}
    loss(top(torch.cat(list(read.values()), 1)), labels).backward()
    return {name: vectors.grad for name, vectors in read.items() if vectors.grad is not None}
