"""Which clients share masks and secrets."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def neighbourhoods(
    clients: Sequence[int], neighbours: int | None, generator: torch.Generator
) -> dict[int, tuple[int, ...]]:
    """Return each client's neighbours, ascending and without itself; the relation is symmetric.

    Args:
        clients: distinct client numbers.
        neighbours: an even k: clients on a random ring are joined to the k / 2 next clients on either side (Bell et al.
            2020, section 3). None, or k of at least all others: all clients are joined.
        generator: draws the order of the ring.
    """
    size = len(clients)
    if neighbours is None or neighbours >= size - 1:
        return {client: tuple(sorted(set(clients) - {client})) for client in clients}
    order = [clients[i] for i in torch.randperm(size, generator=generator).tolist()]
    offsets = [offset for offset in range(-(neighbours // 2), neighbours // 2 + 1) if offset != 0]
    return {
        client: tuple(sorted(order[(place + offset) % size] for offset in offsets))
        for place, client in enumerate(order)
    }
