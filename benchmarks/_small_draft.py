"""A draft model for SmolLM2-135M: four of its thirty layers, which learn to copy news in minutes; made once and cached.

The first two are its first ones; the others are those in which SmolLM2 looks one token back, and behind an earlier
telling of what it reads. It learns what stands behind the first telling of a beginning that is told again and again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._checkpoint_training import descend, places, tokens_of
from benchmarks._news_llama import reports
from fedsim.core import checkpoints
from fedsim.data._tokenizer import ModelTokenizer

LAYERS = (0, 1, 16, 18)
LENGTH, BATCH, STEPS = 72, 4, 250
REPEATED = (20, 44)  # tokens of what is told twice
RATE = 1e-3
_VERSION = "smollm2-copy-draft-1"


def small_draft() -> Path:
    """Return the checkpoint."""
    return checkpoints.make_once(_VERSION, _make, takes="five minutes")


def _make(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - an extra

    with checkpoints.quiet():
        model: Any = AutoModelForCausalLM.from_pretrained(checkpoints.smollm2(), dtype=torch.float32)
    layers: list[Any] = [model.model.layers[number] for number in LAYERS]
    for number, layer in enumerate(layers):
        layer.self_attn.layer_idx = number
    model.model.layers = nn.ModuleList(layers)
    model.config.num_hidden_layers = len(LAYERS)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[: len(LAYERS)]
    _train(model, ModelTokenizer(checkpoints.smollm2()))
    with checkpoints.quiet():
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(checkpoints.smollm2(), local_files_only=True).save_pretrained(folder)


def _train(network: Any, tokenizer: ModelTokenizer) -> None:
    """Train the layers in place; embeddings stay, and only tokens of the reports compete."""
    text = tokens_of(reports()[0], tokenizer)
    between = torch.tensor(tokenizer.encode("\n\n"))
    known = torch.cat((text, between)).unique()
    place = places(known)
    network.model.embed_tokens.weight.requires_grad_(False)
    heads = network.model.embed_tokens.weight[known]
    parameters = [weight for weight in network.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(parameters, RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    source = torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        pairs = [_window(text, between, source) for _ in range(BATCH)]
        texts = torch.stack([window for window, _ in pairs])
        hidden = network.model(input_ids=texts[:, :-1], use_cache=False).last_hidden_state
        again = torch.arange(1, LENGTH)[None] >= torch.tensor([start for _, start in pairs])[:, None]
        return nn.functional.cross_entropy(hidden[again] @ heads.T, place[texts[:, 1:][again]])

    network.train()
    descend(loss, optimizer, schedule, STEPS)
    network.eval()


def _window(text: Tensor, between: Tensor, source: torch.Generator) -> tuple[Tensor, int]:
    """Return a beginning told again and again, and the place of the first token that can be copied."""
    length = int(torch.randint(*REPEATED, (), generator=source))
    start = int(torch.randint(len(text) - length, (), generator=source))
    repeated = torch.cat((text[start : start + length], between))
    return repeated.repeat(1 + LENGTH // len(repeated))[:LENGTH], len(repeated) + 1
