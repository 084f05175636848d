"""Who shares masks and secrets with whom."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def neighbourhoods(
    clients: Sequence[int], neighbours: int | None, generator: torch.Generator
) -> dict[int, tuple[int, ...]]:
    """Return each client's neighbours in ascending order, without itself; neighbourhood is mutual.

    Args:
        clients: different client numbers.
        neighbours: an even number k: a ring in random order where everyone is joined to the k / 2 next on either side
            (Bell et al. 2020, section 3); None, or k of at least all others: everyone is joined to everyone.
        generator: draws the order.
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
