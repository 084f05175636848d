"""What a step of a low-rank adapter costs beside peft's LoRA: forward, backward and optimizer of one language model.

Ratios are of processor time, of medians, in one run whose passes alternate, with the 95 % interval over these. All ways
share the frozen weights. A second model with peft's LoRA is the control: its ratio would be one without any noise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._passes import time_alternately
from benchmarks._rows import Row, ratio
from fedsim.core import registry
from fedsim.core.nets.losses import cross_entropy

EXAMPLES, LENGTH, RANK, ALPHA = 4, 32, 8, 16
PLACES = ("q_proj", "v_proj")


def share_weights(model: nn.Module) -> nn.Module:
    """Return a copy of a model that shares its weights, so that several fit into memory."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def ours(model: nn.Module, name: str, places: tuple[str, ...], **settings: Any) -> nn.Module:
    """Return a copy with the adapters of one of the project's components."""
    method = registry.get("component", name)
    config = method.config.model_validate({"targets": [f"*.{place}" for place in places], "rank": RANK, **settings})
    return method.make(config).prepare(share_weights(model), torch.Generator().manual_seed(0))


def theirs(model: nn.Module, places: tuple[str, ...], dropout: float) -> nn.Module:
    """Return a copy with peft's LoRA."""
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - takes seconds to import

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(places), lora_dropout=dropout)
    return inject_adapter_in_model(config, share_weights(model))


def step(model: nn.Module, tokens: Tensor) -> Callable[[int], None]:
    """Return one training step, to be called with the pass's number."""
    trained = [p for p in model.train().parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0)

    def take(_number: int) -> None:
        optimizer.zero_grad()
        cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]).backward()
        optimizer.step()

    return take


def rows(model: nn.Module, vocabulary: int, passes: int, label: str) -> Iterator[Row]:
    """Yield ratios for LoRA with and without dropout, ALLoRA, and peft's own LoRA once more.

    Args:
        model: of the names of the Llama family.
        vocabulary: number of its tokens.
        passes: of every way, two at least.
        label: of the model, for the rows.
    """
    tokens = torch.randint(vocabulary, (EXAMPLES, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    ways = {
        "LoRA": ours(model, "lora", PLACES, alpha=ALPHA),
        "LoRA, p = 0.1": ours(model, "lora", PLACES, alpha=ALPHA, dropout=0.1),
        "ALLoRA": ours(model, "allora", PLACES),
    }
    others = [theirs(model, PLACES, dropout) for dropout in (0.0, 0.1, 0.0)]
    *of_ways, plain, dropped, again = time_alternately([step(m, tokens) for m in (*ways.values(), *others)], passes)
    setting = f"adapters on queries and values, {label}, {EXAMPLES} x {LENGTH} tokens, rank {RANK}"
    for name, seconds in zip(ways, of_ways, strict=True):
        under, against = (dropped, "peft's LoRA, p = 0.1") if "0.1" in name else (plain, "peft's LoRA")
        yield ratio(f"{name} / {against}: a step", setting, seconds, under, "<= 1.0")
    yield ratio("peft's LoRA / peft's LoRA: a step", setting, again, plain)
