"""A Llama of twelve small layers that learns news in minutes: checkpoints with a tokenizer, made once and cached.

All are made from one base, which every report but sixty taught to write. So a model that went on with a component is
compared with one that went on without, for as many steps.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._checkpoint_training import tokens_of
from fedsim.core import checkpoints, seeding
from fedsim.core.shipped import news_file
from fedsim.data._text import read_text
from fedsim.data._tokenizer import ModelTokenizer
from fedsim.generation.writer import Writer, load_writer

DEPTH, WIDTH, TOKENS = 12, 128, 2048
LENGTH, BATCH = 64, 8
TESTED = 60
BASE_STEPS, MORE_STEPS = 800, 400
RATE, MORE_RATE = 3e-3, 1e-3
_END = "<end>"
_VERSION = f"news-llama-{DEPTH}x{WIDTH}-1"

Loss = Callable[[nn.Module, Tensor], Tensor]  # of a model and whole texts (B, T)


def reports() -> tuple[list[str], list[str]]:
    """Return the reports for training and for testing."""
    every = read_text(news_file()).splitlines()
    return every[TESTED:], every[:TESTED]


def next_tokens(model: nn.Module, texts: Tensor) -> Tensor:
    """Return the mean cross-entropy of next tokens."""
    return nn.functional.cross_entropy(model(texts[:, :-1]).flatten(0, 1), texts[:, 1:].flatten())


def base() -> Path:
    """Return the checkpoint that all others are made from."""
    return checkpoints.make_once(f"{_VERSION}-base", _make_base)


def went_on(name: str, prepare: Callable[[nn.Module], nn.Module], loss: Loss) -> Path:
    """Return a checkpoint of the base after more steps.

    Args:
        name: of the way; another one is another checkpoint.
        prepare: puts a component into the model; its weights keep their places.
        loss: what is minimised.
    """
    start = base()

    def make(folder: Path) -> None:
        writer = load_writer(str(start))
        train(prepare(writer.model), loss, MORE_STEPS, MORE_RATE, seed=1)
        _save(writer, folder)

    return checkpoints.make_once(f"{_VERSION}-{name}", make)


def train(model: nn.Module, loss: Loss, steps: int, rate: float, seed: int) -> None:
    """Train in place on random windows of the training reports, with a step size that falls to zero."""
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    text, numbers = _training_text(), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        starts = torch.randint(len(text) - LENGTH, (BATCH,), generator=numbers)
        optimizer.zero_grad()
        loss(model, torch.stack([text[start : start + LENGTH] for start in starts])).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def windows(writer: Writer) -> Tensor:
    """Return the first window of every test report that is long enough, shape (N, LENGTH)."""
    texts = [writer.tokenizer.encode(report)[:LENGTH] for report in reports()[1]]
    return torch.tensor([text for text in texts if len(text) == LENGTH])


def _training_text() -> Tensor:
    return tokens_of(reports()[0], ModelTokenizer(_tokenizer()))


def _tokenizer() -> Path:
    return checkpoints.make_once(f"{_VERSION}-tokenizer", _make_tokenizer)


def _make_tokenizer(folder: Path) -> None:
    """Learn byte pairs on the training reports."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415 - an extra
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - an extra

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        reports()[0], trainers.BpeTrainer(vocab_size=TOKENS, initial_alphabet=alphabet, special_tokens=[_END])
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_END).save_pretrained(folder)


def _make_base(folder: Path) -> None:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM  # noqa: PLC0415 - an extra

    config = LlamaConfig(
        vocab_size=TOKENS,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    with seeding.isolate_randomness(0), checkpoints.quiet():
        LlamaForCausalLM(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(_tokenizer(), local_files_only=True).save_pretrained(folder)
    writer = load_writer(str(folder))
    train(writer.model, next_tokens, BASE_STEPS, RATE, seed=0)
    _save(writer, folder)


def _save(writer: Writer, folder: Path) -> None:
    from transformers import AutoTokenizer  # noqa: PLC0415 - an extra

    model: Any = writer.model
    with checkpoints.quiet():
        model.own.save_pretrained(folder)
        AutoTokenizer.from_pretrained(_tokenizer(), local_files_only=True).save_pretrained(folder)
