"""Build a party's view of split training. It never contains labels or columns of other parties without a grant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core import seeding
from fedsim.core.errors import ScenarioError
from fedsim.core.types import Batch, Dataset
from fedsim.questions.vertical.training import (
    HERE,
    Cover,
    CutWire,
    Loss,
    SplitModel,
    SplitTraining,
    first_model,
    make_bottom,
    train,
)
from fedsim.questions.vertical.types import CutKnowledge, CutStep, CutView, Evidence
from fedsim.threat.orders import secret_order

Variant = Literal["as it is", "labels permuted", "mean label", "input zero"]
"""Training variant: the scenario, or a control."""


Sizes = tuple[int, int]
"""Number of attacked rows, and number of known labels of each class."""


@dataclass(frozen=True)
class SplitRun:
    """A completed split training.

    Attributes:
        model: the final model.
        parts: the parties' parts of the training examples.
        labels: the training labels.
        epochs: steps of the watched epochs, by epoch number from 1.
    """

    model: SplitModel
    parts: Mapping[str, Tensor]
    labels: Tensor
    epochs: Mapping[int, Sequence[CutStep]]


@dataclass(frozen=True)
class SplitFederation:
    """The parties of a scenario with their data.

    Attributes:
        settings: settings of the training.
        dataset: source of the parties' inputs.
        seed: the scenario's seed.
        watched_epochs: epochs whose messages are stored.
        salt: the run's salt; empty without a salt.
    """

    settings: SplitTraining
    dataset: Dataset
    seed: int
    watched_epochs: frozenset[int]
    salt: bytes = b""

    @cached_property
    def order(self) -> Tensor:
        """A secret permutation of the training examples, shape (N,): row i of the split training is example order[i].

        With row numbers of the data set an attack could look up labels and columns.
        """
        train = self.dataset.train
        return secret_order(len(train), (train.inputs,), self.seed, "rows of the split training", salt=self.salt)

    @cached_property
    def train(self) -> Batch:
        """The training examples in the secret order."""
        return self.dataset.train.select(self.order)

    @cached_property
    def parts(self) -> dict[str, Tensor]:
        """The parties' parts of the training examples, by name."""
        return self._party_inputs(self.train)

    @cached_property
    def public(self) -> dict[str, Tensor]:
        """The parties' parts of the test examples, by name."""
        return self._party_inputs(self.dataset.test)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each party's part of one example."""
        return {name: tuple(part.shape[1:]) for name, part in self.parts.items()}

    def _party_inputs(self, batch: Batch) -> dict[str, Tensor]:
        return {party.name: party.select_inputs(batch.inputs).double() for party in self.settings.parties}

    def check(self) -> None:
        """Check that the parties' parts fit the examples, and that each example has a class label.

        Raises:
            ScenarioError: a check failed; the message gives the reason.
        """
        labels = self.dataset.train.labels
        if labels.dim() != 1 or labels.is_floating_point():
            raise ScenarioError("vertical: the examples have no single class each. Choose a data set with classes.")
        try:
            self.fresh_model()
        except (ValueError, RuntimeError, IndexError) as error:
            raise ScenarioError(f"vertical.parties: {error}. Change data.name, the parties, or bottom.") from error

    def run(
        self,
        variant: Variant = "as it is",
        relabel: Callable[[Tensor], Tensor] = lambda labels: labels,
        cover: Cover = lambda step, _labels, _number: step.down,
        party: str = "",
        on_step: Callable[[int], None] = lambda _number: None,
        wire: CutWire = HERE,
    ) -> SplitRun:
        """Train, and return the messages at the cut.

        Args:
            variant: training variant.
            relabel: changes the labels before training.
            cover: changes the returned gradients.
            party: party with zero input in variant `input zero`.
            on_step: called before a step is stored, with its number from 0.
            wire: connection to the parties.
        """
        labels, parts = self.train.labels, self.parts
        if variant == "labels permuted":
            labels = labels[torch.randperm(len(labels), generator=seeding.generator(self.seed, "permuted labels"))]
        if variant == "input zero":
            parts = {**parts, party: torch.zeros_like(parts[party])}
        labels = relabel(labels)
        loss = _loss_of_mean_label(labels, self.dataset.spec.classes) if variant == "mean label" else F.cross_entropy
        model = self.fresh_model()
        epochs = defaultdict[int, list[CutStep]](list)
        steps = train(self.settings, model, parts, labels, self.seed, cover, loss, _DataSetRows(wire, self.order))
        for number, (epoch, step) in enumerate(steps):
            on_step(number)
            if epoch in self.watched_epochs:
                epochs[epoch].append(step)
        return SplitRun(model, parts, labels, epochs)

    def fresh_model(self) -> SplitModel:
        """Return the model before its first step."""
        return first_model(self.settings, self.dataset, self.seed)

    @cached_property
    def places(self) -> dict[str, tuple[int, int]]:
        """Each party's slice (start, stop) of the top's input."""
        ends = [0]
        for name, bottom in self.fresh_model().bottoms.items():
            ends.append(ends[-1] + bottom(self.parts[name][:1]).shape[1])
        return dict(zip(self.parts, pairwise(ends), strict=True))

    def choose_examples(self, run: SplitRun, rows: int, known: int) -> tuple[Tensor, Tensor]:
        """Return indices of attacked examples, and of up to `known` examples of each class with known labels.

        The attacked examples precede the known examples in a fixed random order, so that their choice and their order
        are independent of the labels: an attack could compute the order from the seed. The known examples are chosen by
        the variant's training labels.
        """
        order = torch.randperm(len(run.labels), generator=seeding.generator(self.seed, "rows at the cut"))
        classes = self.dataset.spec.classes
        attacked, unknown = order.tensor_split([min(rows, max(0, len(order) - known * classes))])
        labels = run.labels[unknown]
        return attacked.clone(), torch.cat([unknown[labels == label][:known] for label in range(classes)])


@dataclass(frozen=True)
class _DataSetRows(CutWire):
    """Wire adapter that maps row numbers of the split training to those of the data set."""

    wire: CutWire
    order: Tensor

    def embed(self, rows: Tensor, number: int, replayed: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return self.wire.embed(self.order[rows], number, replayed)

    def cut(self, gradients: Mapping[str, Tensor]) -> None:
        self.wire.cut(gradients)


def _loss_of_mean_label(labels: Tensor, classes: int) -> Loss:
    """Return the cross-entropy with the label distribution as every example's target, independent of its label."""
    shares = labels.bincount(minlength=classes).double() / len(labels)
    return lambda outputs, _labels: F.cross_entropy(outputs, shares.expand(len(outputs), -1))


def labels_view(
    federation: SplitFederation, run: SplitRun, party: str, epoch: int, knows: frozenset[CutKnowledge], sizes: Sizes
) -> CutView:
    """Return a feature party's view of an epoch: its own part, bottom and messages.

    If gradients are broadcast, its returned gradients are those of all parties, concatenated in the top's order.
    """
    rows, known = federation.choose_examples(run, *sizes)
    has_labels = "few-labels" in knows
    senders = list(federation.places) if federation.settings.broadcast else [party]
    return CutView(
        party=party,
        place=(federation.places[senders[0]][0], federation.places[senders[-1]][1]),
        classes=federation.dataset.spec.classes,
        shape=federation.shapes[party],
        rows=rows,
        steps=[
            CutStep(
                step.rows,
                {party: step.up[party].clone()},
                {party: torch.cat([step.down[name] for name in senders], 1)},
                {party: step.bottoms[party]},
                step.top if "top" in knows else None,
            )
            for step in run.epochs[epoch]
        ],
        known_rows=known if has_labels else known[:0],
        labels=run.labels[known] if has_labels else known[:0],
        columns=run.parts[party].clone(),
    )


def features_view(
    federation: SplitFederation,
    run: SplitRun,
    party: str,
    epoch: int,
    reads: Evidence,
    knows: frozenset[CutKnowledge],
    sizes: Sizes,
) -> CutView:
    """Return the label party's view of an epoch, or of predictions alone, for attacks on another party's columns."""
    rows, _ = federation.choose_examples(run, *sizes)
    view = blank_view(federation, party, knows)
    if reads == "predictions":
        return _with_predictions(federation, run, replace(view, rows=rows), knows)
    steps = [
        replace(
            step,
            up={name: sent.clone() for name, sent in step.up.items()},
            bottoms={party: step.bottoms[party]} if "bottom" in knows else {},
        )
        for step in run.epochs[epoch]
    ]
    return replace(view, rows=rows, steps=steps)


def blank_view(federation: SplitFederation, party: str, knows: frozenset[CutKnowledge]) -> CutView:
    """Return the label party's view before the first message."""
    shape, architecture = federation.shapes[party], None
    if "architecture" in knows:
        with seeding.isolate_randomness(seeding.derive(federation.seed, "another bottom")):
            architecture = make_bottom(federation.settings, shape)
    return CutView(
        party=party,
        place=federation.places[party],
        classes=federation.dataset.spec.classes,
        shape=shape,
        rows=torch.zeros(0, dtype=torch.long),
        public=federation.public[party].clone() if "public-data" in knows else None,
        public_labels=federation.dataset.test.labels.clone() if "public-data" in knows else None,
        architecture=architecture,
    )


def _with_predictions(
    federation: SplitFederation, run: SplitRun, view: CutView, knows: frozenset[CutKnowledge]
) -> CutView:
    """Return a view with predicted probabilities; with the other parties' columns and the top, if granted."""
    parts = {name: part[view.rows] for name, part in run.parts.items()}
    nothing = torch.zeros(0, dtype=torch.long)
    columns = [part.flatten(1) for name, part in parts.items() if name != view.party]
    empty = parts[view.party].flatten(1)[:, :0]
    return replace(
        view,
        predictions=run.model.outputs(parts).softmax(1),
        columns=torch.cat([*columns, empty], 1) if "columns" in knows else None,
        steps=[CutStep(nothing, {}, {}, {}, run.model.evaluation_copy().top)] if "top" in knows else [],
    )


def with_shuffled_gradients(view: CutView, seed: int) -> CutView:
    """Return a view with the returned gradients permuted among the examples of the epoch."""
    gradients = torch.cat([step.down[view.party] for step in view.steps])
    mixed = gradients[torch.randperm(len(gradients), generator=seeding.generator(seed, "shuffled gradients"))]
    parts = mixed.split([len(step.rows) for step in view.steps])
    return replace(
        view, steps=[replace(step, down={view.party: part}) for step, part in zip(view.steps, parts, strict=True)]
    )


def with_raw_columns(view: CutView) -> CutView:
    """Return a view whose bottom is the identity (flatten) on the party's own columns."""
    return replace(view, steps=[replace(step, bottoms={view.party: nn.Flatten()}) for step in view.steps])
