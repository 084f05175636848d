"""SmolLM2-135M that learned some reports with early exits: a checkpoint with its tokenizer, made once and cached.

Training is in mixed precision, weights stay in single. Embeddings stay as they are, and only tokens of all training
reports and the first ones of the tokenizer compete: the others cost most of the time and are hardly ever written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks._checkpoint_training import descend, places, tokens_of
from benchmarks._news_llama import reports
from fedsim.components.loss.early_exits import EarlyExits, EarlyExitsConfig
from fedsim.core import checkpoints
from fedsim.core.types import InputSpec
from fedsim.data._tokenizer import ModelTokenizer
from fedsim.models._checkpoint import CausalModel

EXITS, SHARE = (4, 8), 0.7
LEARNED = 15  # reports
LENGTH, BATCH, STEPS = 64, 4, 110
LOW_RATE, RATE = 1e-3, 3e-4  # of the layers up to the last exit, and of the others, which know what they shall
SHORTLIST = 16_384  # first tokens, which compete always: exits that draft among more say words that nobody trained
_WARM, _FALL = 10, 40  # steps until the step size is reached, and steps in which it falls to zero
_VERSION = "smollm2-news-exits-1"


def learned() -> list[str]:
    """Return the reports that the model learns; those for testing are `reports()[1]`."""
    return reports()[0][:LEARNED]


def with_exits() -> Path:
    """Return the checkpoint."""
    return checkpoints.make_once(_VERSION, _make, takes="some minutes")


class Narrow(nn.Module):
    """An output layer that scores some tokens alone, by rows of an embedding that is not trained.

    Args:
        rows: of these tokens, (K, width).
    """

    rows: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return scores (..., K) of hidden states (..., width)."""
        return F.linear(hidden, self.rows)


def _make(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - an extra

    source = checkpoints.smollm2()
    with checkpoints.quiet():
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="sdpa")
        saved: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    _train(model, ModelTokenizer(source))
    saved.model.load_state_dict(model.model.state_dict())
    with checkpoints.quiet():
        saved.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source, local_files_only=True).save_pretrained(folder)


def _train(wrapped: Any, tokenizer: ModelTokenizer) -> None:
    """Train a model of the transformers package in place; its output layer is replaced."""
    text = tokens_of(learned(), tokenizer)
    known = torch.cat((torch.arange(SHORTLIST), tokens_of(reports()[0], tokenizer))).unique()
    place, spec = places(known), InputSpec((LENGTH,), tokenizer.vocabulary, (), (), vocabulary=tokenizer.vocabulary)
    plain = CausalModel(wrapped, spec)
    wrapped.model.embed_tokens.weight.requires_grad_(False)
    wrapped.set_output_embeddings(Narrow(wrapped.model.embed_tokens.weight[known].clone()))
    method = EarlyExits(EarlyExitsConfig(exits=EXITS, share=SHARE))
    model = method.prepare(plain, torch.Generator()).train()
    numbers = torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        starts = torch.randint(len(text) - LENGTH, (BATCH,), generator=numbers)
        texts = torch.stack([text[start : start + LENGTH + 1] for start in starts])
        with torch.autocast("cpu", torch.bfloat16):
            scores = model(texts[:, :-1])
        return method.objective(scores.float(), place[texts[:, 1:]], 1)

    descend(loss, *_optimizer(wrapped), STEPS)
    model.eval()


def _optimizer(wrapped: Any) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return AdamW with larger steps for the layers that learn to leave, and a step size that rises and falls."""
    low = [weight for layer in wrapped.model.layers[: max(EXITS)] for weight in layer.parameters()]
    rest = [*wrapped.model.layers[max(EXITS) :].parameters(), *wrapped.model.norm.parameters()]
    groups: list[dict[str, Any]] = [{"params": low, "lr": LOW_RATE}, {"params": rest, "lr": RATE}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)

    def size(step: int) -> float:
        return min((step + 1) / _WARM, 1.0, (STEPS - step) / _FALL)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, size)
