"""What trainings of checkpoints on reports share: tokens one behind the other, tokens that compete, and the descent."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fedsim.core.types import Tokenizer


def tokens_of(texts: Sequence[str], tokenizer: Tokenizer) -> Tensor:
    """Return the tokens of texts, one text a line, shape (N,)."""
    return torch.tensor([token for text in texts for token in tokenizer.encode(text + "\n")])


def places(tokens: Tensor) -> Tensor:
    """Return at which place of ascending tokens each stands, by its number; -1 of those that are not among them."""
    numbers = torch.full((int(tokens.max()) + 1,), -1)
    return numbers.scatter_(0, tokens, torch.arange(len(tokens)))


def descend(
    loss: Callable[[], Tensor],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    steps: int,
) -> None:
    """Take so many steps with gradients of norm 1 at most, and tell the loss on standard error every ten steps.

    Args:
        loss: of the next batch.
        optimizer: of all weights that are trained.
        schedule: of its step size.
        steps: how many.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for number in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if number % 10 == 0:
            print(f"step {number} of {steps}: loss {value.item():.3f}", file=sys.stderr, flush=True)
