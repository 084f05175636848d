"""From a federation of trees to what its server sees: the only door. Clients' rows stay on this side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.errors import ScenarioError
from fedsim.core.types import Batch, Dataset
from fedsim.questions.trees.hooks import TreeDefense
from fedsim.questions.trees.training import TreeTraining, federate, parameters
from fedsim.questions.trees.types import Objective, Tree, TreesView, read_model
from fedsim.threat.orders import secret_generator

Variant = Literal["as it is", "labels shuffled"]
"""What is trained: the scenario, or each client's rows with the labels of others of its rows."""


@dataclass(frozen=True)
class TreesRun:
    """A federation that was run.

    Attributes:
        rounds: what each client sent in each round, by its number.
        model: in the end.
        shares: rows of the clients, as they own them, and labels that were trained on.
    """

    rounds: Sequence[Mapping[int, str]]
    model: str
    shares: Sequence[Batch]


@dataclass(frozen=True)
class TreeFederation:
    """The clients of a scenario with their rows.

    Attributes:
        settings: how they train.
        dataset: whose rows they share out; its test rows are public.
        seed: of the scenario.
        defense: of every client; None where there is none.
        salt: of the run, which then decides the clients' rows; empty where it has none.
    """

    settings: TreeTraining
    dataset: Dataset
    seed: int
    defense: TreeDefense[Any] | None = None
    salt: bytes = b""

    @property
    def objective(self) -> Objective:
        """What trees are fitted to."""
        return "reg:squarederror" if self.dataset.train.labels.is_floating_point() else "binary:logistic"

    @cached_property
    def shares(self) -> list[Batch]:
        """Each client's rows, chosen at random, with labels of shape (N,)."""
        train, purpose = self.dataset.train, "rows of trees"
        source = seeding.generator(self.seed, purpose)
        if self.salt:  # the seed alone would say which rows of the data set to look up
            source = secret_generator(train, self.seed, purpose, salt=self.salt)
        order = torch.randperm(len(train), generator=source)
        return [
            self._cut(self.dataset.train.taken(part))
            for part in order[: self.settings.clients * self.settings.rows].split(self.settings.rows)
        ]

    @cached_property
    def public(self) -> Batch:
        """Rows that everybody knows, in random order."""
        order = torch.randperm(len(self.dataset.test), generator=seeding.generator(self.seed, "public rows of trees"))
        return self._cut(self.dataset.test.taken(order))

    def _cut(self, rows: Batch) -> Batch:
        return Batch(rows.inputs[:, : self.settings.columns].contiguous(), rows.labels.flatten())

    def check(self) -> None:
        """Check that clients can train on the rows.

        Raises:
            ScenarioError: with the reason.
        """
        train, needed = self.dataset.train, self.settings.clients * self.settings.rows
        if train.inputs.dim() != 2 or train.inputs.dtype != torch.float32:  # noqa: PLR2004 - (N, D)
            raise ScenarioError("trees: expected rows of a table. Set data.name to 'breast-cancer' or 'diabetes'.")
        is_number = train.labels.is_floating_point() and train.labels.numel() == len(train)
        is_class = not train.labels.is_floating_point() and train.labels.dim() == 1
        if not is_number and not (is_class and self.dataset.spec.classes == 2):  # noqa: PLR2004 - log loss
            raise ScenarioError("trees: expected labels of two classes, or one number each. Change data.name.")
        if (self.settings.columns or 1) > train.inputs.shape[1]:
            raise ScenarioError(f"trees.columns is {self.settings.columns}, and the table has {train.inputs.shape[1]}.")
        if needed > len(train):
            raise ScenarioError(
                f"trees: {self.settings.clients} clients of {self.settings.rows} rows need {needed} training rows, and "
                f"there are {len(train)}. Lower trees.clients or trees.rows."
            )
        if self.settings.rows > len(self.dataset.test):
            raise ScenarioError(
                f"trees.rows is {self.settings.rows}, expected at most {len(self.dataset.test)}: as many test rows "
                "stand beside the guesses."
            )

    def run(self, variant: Variant = "as it is", on_round: Callable[[int], None] = lambda _number: None) -> TreesRun:
        """Train, and return what was sent.

        Args:
            variant: what is trained.
            on_round: called before each round with its number from 0.
        """
        shares = self.shares
        if variant == "labels shuffled":
            shares = [self._shuffled(share, client) for client, share in enumerate(shares)]
        held = shares
        fixed, cover = parameters(self.settings, self.objective), lambda model: model
        if self.defense is not None:
            held = [Batch(self.defense.prepare(share.inputs, self.public.inputs), share.labels) for share in shares]
            fixed, cover = {**fixed, **self.defense.parameters(self.objective)}, self.defense.cover
        rounds, model = federate(self.settings, held, fixed, cover, on_round)
        return TreesRun(rounds, model, shares)

    def _shuffled(self, share: Batch, client: int) -> Batch:
        order = torch.randperm(len(share), generator=seeding.generator(self.seed, "shuffled labels of trees", client))
        return Batch(share.inputs, share.labels[order])

    def view(self, run: TreesRun, client: int) -> TreesView:
        """Return what the server sees, which asks for the rows of a client."""
        return TreesView(
            client=client,
            columns=self.public.inputs.shape[1],
            objective=self.objective,
            eta=self.settings.eta,
            penalty=self.settings.penalty,
            rounds=run.rounds,
            base=read_model(next(iter(run.rounds[0].values()))).base,
            public=self.public.inputs.clone(),
            public_labels=self.public.labels.clone(),
        )


def leaf_sums(view: TreesView, rows: Tensor, labels: Tensor) -> Tensor:
    """Return how many rows come to each leaf of the client's first tree, and the sum of their labels, shape (L, 2)."""
    tree = view.first.trees[0]
    pairs = torch.stack([torch.ones(len(rows)), labels], 1).double()
    return torch.zeros(len(tree.leaves), 2, dtype=torch.double).index_add(0, tree.reached(rows), pairs)


def boxes_of(view: TreesView, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the leaves that each row (N, D) comes to meet, as bounds (N, D).

    Over the client's trees and those that they build on, which are the ones that its sums say something of.
    """
    low, high = torch.full(rows.shape, -torch.inf), torch.full(rows.shape, torch.inf)
    for tree in _behind(view):
        leaf_low, leaf_high = (bound[tree.reached(rows)] for bound in tree.boxes(view.columns))
        low, high = low.maximum(leaf_low), high.minimum(leaf_high)
    return low, high


def _behind(view: TreesView) -> Iterator[Tree]:
    last = max(number for number, sent in enumerate(view.rounds) if view.client in sent)
    for number, sent in enumerate(view.rounds[: last + 1]):
        for client, text in sent.items():
            if number < last or client == view.client:
                yield from read_model(text).trees
