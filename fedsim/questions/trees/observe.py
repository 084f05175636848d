"""Build the server's view of a federation of trees. It never contains the clients' rows."""

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
"""Training variant: the scenario, or each client's rows with its labels permuted."""


@dataclass(frozen=True)
class TreesRun:
    """A completed federation of trees.

    Attributes:
        rounds: each client's message in each round, by client number.
        model: the final model.
        shares: rows of the clients before a defense, with the training labels.
    """

    rounds: Sequence[Mapping[int, str]]
    model: str
    shares: Sequence[Batch]


@dataclass(frozen=True)
class TreeFederation:
    """The clients of a scenario with their rows.

    Attributes:
        settings: settings of the training.
        dataset: source of the clients' rows; its test rows are public.
        seed: the scenario's seed.
        defense: defense of every client; None for none.
        salt: the run's salt, which then determines the clients' rows; empty without a salt.
    """

    settings: TreeTraining
    dataset: Dataset
    seed: int
    defense: TreeDefense[Any] | None = None
    salt: bytes = b""

    @property
    def objective(self) -> Objective:
        """The training objective of the trees."""
        return "reg:squarederror" if self.dataset.train.labels.is_floating_point() else "binary:logistic"

    @cached_property
    def shares(self) -> list[Batch]:
        """Each client's rows, sampled at random, with labels of shape (N,)."""
        train, purpose = self.dataset.train, "rows of trees"
        source = seeding.generator(self.seed, purpose)
        if self.salt:  # the seed alone would identify the rows of the data set
            source = secret_generator(train, self.seed, purpose, salt=self.salt)
        order = torch.randperm(len(train), generator=source)
        return [
            self._cut(self.dataset.train.select(part))
            for part in order[: self.settings.clients * self.settings.rows].split(self.settings.rows)
        ]

    @cached_property
    def public(self) -> Batch:
        """Public rows in random order."""
        order = torch.randperm(len(self.dataset.test), generator=seeding.generator(self.seed, "public rows of trees"))
        return self._cut(self.dataset.test.select(order))

    def _cut(self, rows: Batch) -> Batch:
        return Batch(rows.inputs[:, : self.settings.columns].contiguous(), rows.labels.flatten())

    def check(self) -> None:
        """Check that clients can train on the rows.

        Raises:
            ScenarioError: a check failed; the message gives the reason.
        """
        train, needed = self.dataset.train, self.settings.clients * self.settings.rows
        if train.inputs.dim() != 2 or train.inputs.dtype != torch.float32:  # noqa: PLR2004 - (N, D)
            raise ScenarioError("trees: expected rows of a table. Set data.name to 'breast-cancer' or 'diabetes'.")
        is_number = train.labels.is_floating_point() and train.labels.numel() == len(train)
        is_class = not train.labels.is_floating_point() and train.labels.dim() == 1
        if not is_number and not (is_class and self.dataset.spec.classes == 2):  # noqa: PLR2004 - log loss
            raise ScenarioError("trees: expected labels of two classes, or a number per example. Change data.name.")
        if (self.settings.columns or 1) > train.inputs.shape[1]:
            raise ScenarioError(f"trees.columns is {self.settings.columns}, and the table has {train.inputs.shape[1]}.")
        if needed > len(train):
            raise ScenarioError(
                f"trees: {self.settings.clients} clients of {self.settings.rows} rows need "
                f"{needed} training rows, but the data have {len(train)}. Lower trees.clients "
                "or trees.rows."
            )
        if self.settings.rows > len(self.dataset.test):
            raise ScenarioError(
                f"trees.rows is {self.settings.rows}, expected at most "
                f"{len(self.dataset.test)}: the baseline needs as many test rows."
            )

    def run(self, variant: Variant = "as it is", on_round: Callable[[int], None] = lambda _number: None) -> TreesRun:
        """Train, and return the messages.

        Args:
            variant: training variant.
            on_round: called before each round with its number from 0.
        """
        shares = self.shares
        if variant == "labels shuffled":
            shares = [self._shuffle_labels(share, client) for client, share in enumerate(shares)]
        held = shares
        fixed, cover = parameters(self.settings, self.objective), lambda model: model
        if self.defense is not None:
            held = [Batch(self.defense.prepare(share.inputs, self.public.inputs), share.labels) for share in shares]
            fixed, cover = {**fixed, **self.defense.parameters(self.objective)}, self.defense.protect_model
        rounds, model = federate(self.settings, held, fixed, cover, on_round)
        return TreesRun(rounds, model, shares)

    def _shuffle_labels(self, share: Batch, client: int) -> Batch:
        order = torch.randperm(len(share), generator=seeding.generator(self.seed, "shuffled labels of trees", client))
        return Batch(share.inputs, share.labels[order])

    def view(self, run: TreesRun, client: int) -> TreesView:
        """Return the server's view when it attacks a client."""
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
    """Return row count and label sum of each leaf of the client's first tree, for the given rows, shape (L, 2)."""
    tree = view.first.trees[0]
    pairs = torch.stack([torch.ones(len(rows)), labels], 1).double()
    return torch.zeros(len(tree.leaves), 2, dtype=torch.double).index_add(0, tree.find_leaf_indices(rows), pairs)


def boxes_of(view: TreesView, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the bounds (N, D) of the intersection of all leaves that contain a row, for rows (N, D).

    The trees are the client's and all trees on which they build, because the client's sums depend on these trees.
    """
    low, high = torch.full(rows.shape, -torch.inf), torch.full(rows.shape, torch.inf)
    for tree in _trees_until(view):
        leaf_low, leaf_high = (bound[tree.find_leaf_indices(rows)] for bound in tree.boxes(view.columns))
        low, high = low.maximum(leaf_low), high.minimum(leaf_high)
    return low, high


def _trees_until(view: TreesView) -> Iterator[Tree]:
    last = max(number for number, sent in enumerate(view.rounds) if view.client in sent)
    for number, sent in enumerate(view.rounds[: last + 1]):
        for client, text in sent.items():
            if number < last or client == view.client:
                yield from read_model(text).trees
