"""What a step of a low-rank adapter costs beside peft's LoRA: forward, backward and optimizer of one language model.

Ratios are of processor time, of medians, in one run whose passes alternate, with the 95 % interval over these. All ways
share the frozen weights. A second model with peft's LoRA is the control: its ratio would be one without any noise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._passes import alternating, interval, ratio
from benchmarks._rows import Row
from fedsim.core import registry
from fedsim.core.losses import cross_entropy
from fedsim.core.types import InputSpec
from fedsim.models._checkpoint import CausalModel

EXAMPLES, MANY, LENGTH, RANK, ALPHA = 4, 16, 32, 8, 16
PLACES = {"q, v": ("q_proj", "v_proj"), "all seven": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
                                                       "down_proj")}  # fmt: skip


def llama_135m() -> CausalModel:
    """Return a language model of 135 million random weights: 30 blocks of width 576, 9 heads, 3 of keys and values."""
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415 - takes seconds to import

    settings = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    settings._attn_implementation = "eager"
    torch.manual_seed(0)
    spec = InputSpec((LENGTH,), 49152, (), (), vocabulary=49152)
    return CausalModel(LlamaForCausalLM(settings), spec)


def sharing(model: nn.Module) -> nn.Module:
    """Return a copy of a model that shares its weights, so that several fit into memory."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def ours(model: nn.Module, name: str, places: tuple[str, ...], **settings: Any) -> nn.Module:
    """Return a copy with the adapters of one of the project's components."""
    method = registry.get("component", name)
    config = method.config.model_validate({"targets": [f"*.{place}" for place in places], "rank": RANK, **settings})
    return method.make(config).prepare(sharing(model), torch.Generator().manual_seed(0))


def theirs(model: nn.Module, places: tuple[str, ...], dropout: float) -> nn.Module:
    """Return a copy with peft's LoRA."""
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - takes seconds to import

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(places), lora_dropout=dropout)
    return inject_adapter_in_model(config, sharing(model))


def step(model: nn.Module, tokens: Tensor) -> Callable[[int], None]:
    """Return one training step, to be called with the pass's number."""
    trained = [p for p in model.train().parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0)

    def take(_number: int) -> None:
        optimizer.zero_grad()
        cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]).backward()
        optimizer.step()

    return take


def all_rows(model: nn.Module, vocabulary: int, full: bool, label: str) -> Iterator[Row]:
    """Yield `rows` of every placement, and of larger steps; the long version takes more passes."""
    passes = 60 if full else 20
    for where in PLACES:
        yield from rows(model, vocabulary, passes, label, where)
    yield from rows(model, vocabulary, passes // 3, label, "q, v", MANY)


def rows(
    model: nn.Module, vocabulary: int, passes: int, label: str, where: str, examples: int = EXAMPLES
) -> Iterator[Row]:
    """Yield ratios for LoRA with and without dropout, ALLoRA, and peft's own LoRA once more.

    Args:
        model: of the names of the Llama family.
        vocabulary: number of its tokens.
        passes: of every way, two at least.
        label: of the model, for the rows.
        where: one of PLACES.
        examples: of a step.
    """
    tokens = torch.randint(vocabulary, (examples, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    places = PLACES[where]
    ways = {
        "LoRA": ours(model, "lora", places, alpha=ALPHA),
        "LoRA, p = 0.1": ours(model, "lora", places, alpha=ALPHA, dropout=0.1),
        "ALLoRA": ours(model, "allora", places),
    }
    others = [theirs(model, places, dropout) for dropout in (0.0, 0.1, 0.0)]
    *of_ways, plain, dropped, again = alternating([step(m, tokens) for m in (*ways.values(), *others)], passes)
    setting = f"{label}, {examples} x {LENGTH} tokens, {where}, rank {RANK}"
    for name, seconds in zip(ways, of_ways, strict=True):
        under, against = (dropped, "peft's LoRA, p = 0.1") if "0.1" in name else (plain, "peft's LoRA")
        yield _row(f"{name} / {against}: a step", setting, seconds, under, "<= 1.0")
    yield _row("peft's LoRA / peft's LoRA: a step", setting, again, plain, "")


def _row(name: str, setting: str, over: Sequence[float], under: Sequence[float], must: str) -> Row:
    low, high = interval(over, under)
    return ratio(name, f"{setting}, 95 % [{low:.3f}, {high:.3f}]", over, under, must)
