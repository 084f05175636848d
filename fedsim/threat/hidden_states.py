"""Texts behind the watched updates, for attackers that see hidden states, e.g. the server of split learning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedsim.core.errors import ScenarioError
from fedsim.core.nets.kv_cache import stack_of
from fedsim.core.types import WireEntry
from fedsim.scenario.world import World


class SharedTexts(NamedTuple):
    """The texts behind the watched updates of a round.

    Attributes:
        model: model with the weights that the clients received; the next round overwrites it.
        number: round number.
        examples: indices of the training examples (N,).
        clients: client of each example (N,).
    """

    model: nn.Module
    number: int
    examples: Tensor
    clients: Tensor


def check(world: World, table: str) -> None:
    """Check before the first round that clients have texts, and that the model's layers can be read.

    Args:
        world: the scenario's built objects.
        table: the question's table, for messages.

    Raises:
        ScenarioError: a check failed; the message gives the reason.
    """
    dataset = world.data.dataset
    if dataset.task != "next-token":
        raise ScenarioError(
            f"{table}: states of texts are read, and data '{world.scenario.data.name}' has none whose next token is "
            'learned. Choose data of task next-token, as data.name = "named-news".'
        )
    if stack_of(world.models.workspace.model) is None:
        raise ScenarioError(
            f"{table}: the layers of model '{world.scenario.model.name}' are not known. Choose a model of Llama's "
            'kind, as model.name = "tiny-llama".'
        )
    if torch.equal(dataset.train.inputs, dataset.test.inputs):
        raise ScenarioError(
            f"{table}: the test set of this data set is its training set, so the attacker has "
            "no public texts to learn from. Choose another data set."
        )


def shared_texts(world: World, entries: Sequence[WireEntry]) -> Iterator[SharedTexts]:
    """Yield the texts of each watched round, without planted texts, whose indices follow the data set's."""
    of_dataset = len(world.data.dataset.train)
    for number, group in groupby(entries, key=lambda entry: entry.round):
        members = list(group)
        numbers = [torch.cat(list(world.data.numbers_of(number, entry.client))).unique() for entry in members]
        numbers = [batch[batch < of_dataset] for batch in numbers]
        clients = [torch.full_like(batch, entry.client) for batch, entry in zip(numbers, members, strict=True)]
        yield SharedTexts(
            world.models.load_weights(members[0].received_weights), number, torch.cat(numbers), torch.cat(clients)
        )
