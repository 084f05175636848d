"""Sharing one data set out among clients: evenly, with uneven classes, or a few classes each.

Dirichlet: Hsu, Qi, Brown 2019, arXiv 1909.06335. By class: McMahan et al. 2017, arXiv 1602.05629.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedsim.errors import FedsimError

Scheme = Literal["iid", "dirichlet", "by-class"]


def partition(
    labels: Tensor,
    clients: int,
    generator: torch.Generator,
    *,
    scheme: Scheme = "iid",
    alpha: float = 0.5,
    classes_per_client: int = 2,
) -> tuple[Tensor, ...]:
    """Return the indices of each client's examples, in random order; no example has two owners.

    Args:
        labels: class of each example, shape (N,).
        clients: number of clients; each gets at least one example.
        generator: decides everything.
        scheme: ``iid``: equal shares (up to one example) of all examples. ``dirichlet``: every class is cut in
            proportions drawn from Dirichlet(alpha); a client left without examples gets one of the client that has
            most. ``by-class``: a client owns `classes_per_client` classes and shares each evenly with its other
            owners; classes without an owner stay unused.
        alpha: concentration of ``dirichlet``, smaller is more uneven.
        classes_per_client: distinct classes of a client in ``by-class``.

    Raises:
        FedsimError: there are too few examples or classes.
    """
    if len(labels) < clients:
        raise FedsimError(f"{len(labels)} training examples for {clients} clients: expected at least one for each.")
    match scheme:
        case "iid":
            shares = list(torch.randperm(len(labels), generator=generator).tensor_split(clients))
        case "dirichlet":
            shares = _refilled(_dirichlet(labels, clients, alpha, generator))
        case "by-class":
            shares = _by_class(labels, clients, classes_per_client, generator)
    return tuple(_shuffled(share, generator) for share in shares)


def _dirichlet(labels: Tensor, clients: int, alpha: float, generator: torch.Generator) -> list[Tensor]:
    # The Dirichlet distribution of torch takes no generator.
    numbers = np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator)))
    pieces: list[list[Tensor]] = [[] for _ in range(clients)]
    for members in _members(labels, generator).values():
        bounds = numbers.dirichlet([alpha] * clients).cumsum()[:-1] * len(members)
        for own, piece in zip(pieces, members.tensor_split(bounds.round().astype(int).tolist()), strict=True):
            own.append(piece)
    return [torch.cat(own) for own in pieces]


def _refilled(shares: list[Tensor]) -> list[Tensor]:
    """Give each empty client, in order, one example of the client that has most at that moment."""
    for client, share in enumerate(shares):
        if len(share):
            continue
        largest = max(range(len(shares)), key=lambda other: len(shares[other]))
        shares[client], shares[largest] = shares[largest][:1], shares[largest][1:]
    return shares


def _by_class(labels: Tensor, clients: int, classes_per_client: int, generator: torch.Generator) -> list[Tensor]:
    members = _members(labels, generator)
    if classes_per_client > len(members):
        raise FedsimError(
            f"partition.classes_per_client is {classes_per_client}, expected at most {len(members)}, the classes."
        )
    pieces: list[list[Tensor]] = [[] for _ in range(clients)]
    for label, owners in _owners(list(members), clients, classes_per_client, generator).items():
        if len(owners) > len(members[label]):
            raise FedsimError(
                f"class {label} has {len(members[label])} training examples, but {len(owners)} of the {clients} "
                f"clients own it: expected at least {len(owners)}. Use fewer clients or classes_per_client."
            )
        for owner, piece in zip(owners, members[label].tensor_split(max(1, len(owners))), strict=False):
            pieces[owner].append(piece)
    return [torch.cat(own) for own in pieces]


def _owners(
    classes: list[int], clients: int, classes_per_client: int, generator: torch.Generator
) -> dict[int, list[int]]:
    """Let each client in turn take the classes that have the fewest owners so far, ties at random."""
    owners: dict[int, list[int]] = {label: [] for label in classes}
    for client in range(clients):
        candidates = [classes[index] for index in torch.randperm(len(classes), generator=generator).tolist()]
        for label in sorted(candidates, key=lambda label: len(owners[label]))[:classes_per_client]:
            owners[label].append(client)
    return owners


def _members(labels: Tensor, generator: torch.Generator) -> dict[int, Tensor]:
    """Return the indices of each class that occurs, shuffled."""
    return {label: _shuffled((labels == label).nonzero().flatten(), generator) for label in labels.unique().tolist()}


def _shuffled(indices: Tensor, generator: torch.Generator) -> Tensor:
    return indices[torch.randperm(len(indices), generator=generator)]
