"""A draft model for SmolLM2-135M: four of its thirty layers, trained on news in minutes; made once and cached.

Layers 1 and 2 are the first ones; 17 and 19 are those in which SmolLM2 looks one token back, and behind an earlier
telling of what it reads, so that four layers can learn to copy. Half of the texts that it learns are told twice.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._news_llama import reports
from fedsim.core import checkpoints
from fedsim.data._tokenizer import ModelTokenizer

LAYERS = (0, 1, 16, 18)
LENGTH, BATCH, STEPS = 88, 4, 200
TOLD = (16, 43)  # tokens of what is told twice
RATE = 7e-4
_VERSION = "smollm2-news-draft-1"


def small_draft() -> Path:
    """Return the checkpoint."""
    return checkpoints.make_once(_VERSION, _make, takes="five minutes")


def _make(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - an extra

    with checkpoints.quiet():
        own: Any = AutoModelForCausalLM.from_pretrained(checkpoints.smollm2(), dtype=torch.float32)
    own.model.layers = nn.ModuleList([own.model.layers[number] for number in LAYERS])
    for number, layer in enumerate(own.model.layers):
        layer.self_attn.layer_idx = number
    own.config.num_hidden_layers = len(LAYERS)
    if getattr(own.config, "layer_types", None):
        own.config.layer_types = own.config.layer_types[: len(LAYERS)]
    _train(own, ModelTokenizer(checkpoints.smollm2()))
    with checkpoints.quiet():
        own.save_pretrained(folder)
        AutoTokenizer.from_pretrained(checkpoints.smollm2(), local_files_only=True).save_pretrained(folder)


def _train(own: Any, tokenizer: ModelTokenizer) -> None:
    """Train the layers in place; embeddings stay, and only tokens of the reports compete."""
    text = torch.tensor([token for report in reports()[0] for token in tokenizer.encode(report + "\n")])
    between = torch.tensor(tokenizer.encode("\n\n"))
    known = torch.cat((text, between)).unique()
    place = torch.zeros(int(known.max()) + 1, dtype=torch.long).scatter_(0, known, torch.arange(len(known)))
    own.model.embed_tokens.weight.requires_grad_(False)
    heads = own.model.embed_tokens.weight[known]
    parameters = [weight for weight in own.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(parameters, RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    source = torch.Generator().manual_seed(0)
    own.train()
    for number in range(STEPS):
        texts = torch.stack([_window(text, between, source, row % 2 == 1) for row in range(BATCH)])
        hidden = own.model(input_ids=texts[:, :-1], use_cache=False).last_hidden_state
        scores = hidden.flatten(0, 1) @ heads.T
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(scores, place[texts[:, 1:].flatten()])
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if number % 10 == 0:
            print(f"step {number} of {STEPS}: loss {loss.item():.3f}", file=sys.stderr, flush=True)
    own.eval()


def _window(text: Tensor, between: Tensor, source: torch.Generator, is_twice: bool) -> Tensor:
    """Return some tokens of the text, or a beginning of them told again and again."""
    start = int(torch.randint(len(text) - LENGTH, (), generator=source))
    if not is_twice:
        return text[start : start + LENGTH]
    once = text[start : start + int(torch.randint(*TOLD, (), generator=source))]
    told = torch.cat((once, between))
    return told.repeat(1 + LENGTH // len(told))[:LENGTH]
