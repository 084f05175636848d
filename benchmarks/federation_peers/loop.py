"""The yardstick: federated averaging as a bare PyTorch loop, with nothing around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def federated_averaging(
    model: nn.Module,
    shares: Sequence[tuple[Tensor, Tensor]],
    rounds: int,
    batch_size: int,
    learning_rate: float,
    on_round: Callable[[], None],
) -> dict[str, Tensor]:
    """Train all clients for one local epoch a round and return the final weights."""
    criterion = nn.CrossEntropyLoss()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for round_ in range(rounds):
        total, examples = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}, 0
        for client, (inputs, labels) in enumerate(shares):
            model.load_state_dict(weights)
            optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
            generator = torch.Generator().manual_seed(1000 * round_ + client)
            losses = 0.0
            for chosen in torch.randperm(len(labels), generator=generator).split(batch_size):
                optimizer.zero_grad()
                loss = criterion(model(inputs[chosen]), labels[chosen])
                loss.backward()
                optimizer.step()
                losses += loss.item() * len(chosen)
            for name, tensor in model.state_dict().items():
                total[name] += tensor * len(labels)
            examples += len(labels)
        weights = {name: tensor / examples for name, tensor in total.items()}
        on_round()
    return weights
