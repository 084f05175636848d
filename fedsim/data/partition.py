"""Data partition: assign examples to clients evenly, by class, user or size, or by independent samples per client.

Dirichlet: Hsu, Qi, Brown 2019, arXiv 1909.06335. By class: McMahan et al. 2017, arXiv 1602.05629. Quantity skew: Li,
Diao, Chen, He 2022, arXiv 2102.02079.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final, overload

import numpy as np
import torch
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.record import PartitionRecord

Scheme = Literal["iid", "dirichlet", "by-class", "by-user", "quantity-skew", "resampled"]

_CLIENTS_MEASURED = 1000
_CLIENTS_SHOWN = 40


def partition(
    labels: Tensor,
    clients: int,
    generator: torch.Generator,
    *,
    scheme: Scheme = "iid",
    alpha: float = 0.5,
    classes_per_client: int = 2,
    examples_per_client: int = 10,
    users: Tensor | None = None,
) -> Sequence[Tensor]:
    """Return each client's example indices in random order; only ``resampled`` may assign an example to two clients.

    Args:
        labels: class of each example, shape (N,), or its next tokens, shape (N, T), or a real number; the last two are
            not
            classes, so all examples count as one class.
        clients: number of clients; each gets at least one example.
        generator: source of all randomness.
        scheme: ``iid``: equal shares (up to one example) of all examples. ``dirichlet``: every class is divided in
            proportions sampled from Dirichlet(alpha); a client without examples gets one from the client with the most.
            ``by-class``: a client owns `classes_per_client` classes, and the owners of a class divide it evenly;
            classes
            without an owner are unused. ``by-user``: clients get equal numbers of users (up to one), each with all
            examples of the user. ``quantity-skew``: sizes in proportions sampled from Dirichlet(alpha), with random
            classes; a client without examples gets one from the client with the most. ``resampled``: every client
            samples
            `examples_per_client` distinct examples of the whole set, independently of other clients, so there may be
            more
            clients than examples. Such a share is recomputed at every access and needs no memory.
        alpha: concentration of ``dirichlet`` and ``quantity-skew``; a smaller value is more uneven.
        classes_per_client: distinct classes of a client in ``by-class``.
        examples_per_client: size of a share in ``resampled``.
        users: owner of each example for ``by-user``, shape (N,); None if the data set has no users.

    Raises:
        FedsimError: there are too few examples, classes or users.
    """
    if scheme == "resampled":
        return _Resampled(len(labels), clients, examples_per_client, generator)
    labels = _classes(labels)
    if len(labels) < clients:
        raise FedsimError(f"{len(labels)} training examples for {clients} clients: expected at least 1 per client.")
    match scheme:
        case "iid":
            shares = list(torch.randperm(len(labels), generator=generator).tensor_split(clients))
        case "dirichlet":
            shares = _refill(_dirichlet(labels, clients, alpha, generator))
        case "by-class":
            shares = _split_by_class(labels, clients, classes_per_client, generator)
        case "by-user":
            shares = _split_by_user(users, clients, generator)
        case "quantity-skew":
            # One class for all examples, divided like a class.
            shares = _refill(_dirichlet(torch.zeros_like(labels), clients, alpha, generator))
    return tuple(_shuffle(share, generator) for share in shares)


def describe_partition(
    shares: Sequence[Tensor], labels: Tensor, *, scheme: Scheme, class_names: tuple[str, ...]
) -> PartitionRecord:
    """Return the sizes of a partition's shares, and the class counts of its first clients.

    Args:
        shares: result of `partition`.
        labels: class of each example, shape (N,), or its next tokens or tags, shape (N, T).
        scheme: scheme of the partition.
        class_names: name of each class, in the order of the labels.
    """
    class_names = class_names if labels.dim() == 1 else ("text",)
    labels = _classes(labels)
    measured = shares[:_CLIENTS_MEASURED] if isinstance(shares, _Resampled) else shares
    sizes = torch.tensor([len(share) for share in measured], dtype=torch.float64)
    counts = (labels[share].bincount(minlength=len(class_names)).tolist() for share in shares[:_CLIENTS_SHOWN])
    return PartitionRecord(
        scheme=scheme,
        clients=len(shares),
        clients_measured=len(measured),
        examples_min=int(sizes.min()),
        examples_median=float(sizes.quantile(0.5)),
        examples_max=int(sizes.max()),
        class_counts=tuple((client, tuple(row)) for client, row in enumerate(counts)),
        class_names=class_names,
    )


@final
class _Resampled(Sequence[Tensor]):
    """Shares that depend only on the client's index."""

    def __init__(self, examples: int, clients: int, examples_per_client: int, generator: torch.Generator) -> None:
        if examples_per_client > examples:
            raise FedsimError(
                f"partition.examples_per_client is {examples_per_client}, expected at most {examples}, the training "
                "examples: a client draws each at most once."
            )
        self._examples = examples
        self._clients = range(clients)
        self._size = examples_per_client
        self._seed = int(torch.randint(2**63 - 1, (), generator=generator))

    def __len__(self) -> int:
        return len(self._clients)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Tensor, ...]: ...

    def __getitem__(self, index: int | slice) -> Tensor | tuple[Tensor, ...]:
        if isinstance(index, slice):
            return tuple(map(self._share, self._clients[index]))
        return self._share(self._clients[index])

    def _share(self, client: int) -> Tensor:
        # torch permutes all examples; NumPy needs time and memory only for the sampled examples.
        numbers = np.random.default_rng(seeding.derive(self._seed, "share", client))
        return torch.from_numpy(numbers.choice(self._examples, self._size, replace=False))


def _split_by_user(users: Tensor | None, clients: int, generator: torch.Generator) -> list[Tensor]:
    if users is None:
        raise FedsimError(
            "partition.scheme is 'by-user', but the data set has no users. Choose another "
            "scheme, or data whose Dataset has users."
        )
    names, user = users.unique(return_inverse=True)
    if len(names) < clients:
        raise FedsimError(
            f"{len(names)} users for {clients} clients: expected at least 1 per client. Lower federation.clients."
        )
    owner = torch.empty(len(names), dtype=torch.long)
    for client, share in enumerate(torch.randperm(len(names), generator=generator).tensor_split(clients)):
        owner[share] = client
    of_example = owner[user]
    return list(of_example.argsort(stable=True).split(of_example.bincount(minlength=clients).tolist()))


def _dirichlet(labels: Tensor, clients: int, alpha: float, generator: torch.Generator) -> list[Tensor]:
    # torch's Dirichlet distribution accepts no generator.
    numbers = np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator)))
    pieces: list[list[Tensor]] = [[] for _ in range(clients)]
    for members in _members(labels, generator).values():
        bounds = numbers.dirichlet([alpha] * clients).cumsum()[:-1] * len(members)
        for client_pieces, piece in zip(pieces, members.tensor_split(bounds.round().astype(int).tolist()), strict=True):
            client_pieces.append(piece)
    return [torch.cat(parts) for parts in pieces]


def _refill(shares: list[Tensor]) -> list[Tensor]:
    """Move to each empty client, in order, an example of the client with the most examples at that moment."""
    for client, share in enumerate(shares):
        if len(share):
            continue
        largest = max(range(len(shares)), key=lambda index: len(shares[index]))
        shares[client], shares[largest] = shares[largest][:1], shares[largest][1:]
    return shares


def _split_by_class(labels: Tensor, clients: int, classes_per_client: int, generator: torch.Generator) -> list[Tensor]:
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
    return [torch.cat(parts) for parts in pieces]


def _owners(
    classes: list[int], clients: int, classes_per_client: int, generator: torch.Generator
) -> dict[int, list[int]]:
    """Assign to each client in turn the classes with the fewest owners so far; ties are broken at random."""
    owners: dict[int, list[int]] = {label: [] for label in classes}
    for client in range(clients):
        candidates = [classes[index] for index in torch.randperm(len(classes), generator=generator).tolist()]
        for label in sorted(candidates, key=lambda label: len(owners[label]))[:classes_per_client]:
            owners[label].append(client)
    return owners


def _classes(labels: Tensor) -> Tensor:
    """Return the class of each example; all zeros for token labels and real numbers, which are not classes."""
    if labels.dim() == 1 and not labels.is_floating_point():
        return labels
    return torch.zeros(len(labels), dtype=torch.long)


def _members(labels: Tensor, generator: torch.Generator) -> dict[int, Tensor]:
    """Return the indices of each class that occurs, shuffled."""
    return {label: _shuffle((labels == label).nonzero().flatten(), generator) for label in labels.unique().tolist()}


def _shuffle(indices: Tensor, generator: torch.Generator) -> Tensor:
    return indices[torch.randperm(len(indices), generator=generator)]
