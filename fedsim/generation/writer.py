"""Loader of a language model with its tokenizer, by registered name or from a checkpoint folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError
from fedsim.core.nets import checkpoints
from fedsim.core.nets.kv_cache import stack_of
from fedsim.core.types import InputSpec, Tokenizer, Trace
from fedsim.data._tokenizer import ModelTokenizer, WordTokenizer
from fedsim.generation.peft_folder import with_adapter


@dataclass(frozen=True)
class Writer:
    """A language model with its tokenizer.

    Attributes:
        model: in evaluation mode.
        tokenizer: the model's tokenizer.
        context: maximum number of tokens; None without a limit.
    """

    model: nn.Module
    tokenizer: Tokenizer
    context: int | None

    def passes(self, trace: Trace) -> float:
        """Return the number of equivalent full forward passes of a generation.

        Layers run divided by the model's layers; without a count of layers, the rows processed; else the steps. The
        output layer is not counted.
        """
        series, stack = trace.series(), stack_of(self.model)
        if "layers" in series:
            return sum(series["layers"]) / (1 if stack is None else stack.depth)
        return sum(series["rows"]) if "rows" in series else len(trace.tokens)


def load_writer(model: str, tokenizer: Path | None = None, seed: int = 0, adapter: Path | None = None) -> Writer:
    """Load a language model for generation.

    Args:
        model: folder of a Hugging Face checkpoint, or a model's name. All named models but `smollm2-135m` are
            untrained.
        tokenizer: folder of a tokenizer that replaces the model's own.
        seed: seed of untrained weights.
        adapter: folder of a low-rank adapter of package peft.

    Raises:
        MissingExtra: a package is not installed.
        FedsimError: unknown model, or tokenizer or adapter belong to another model.
    """
    folder = checkpoints.smollm2() if model == checkpoints.SMOLLM2 else Path(model)
    if not folder.is_dir() and (folder.is_absolute() or len(folder.parts) > 1):
        raise FedsimError(
            f"no folder {folder}. Expected a folder with config.json and *.safetensors, or a model's name."
        )
    source = tokenizer or (folder if folder.is_dir() else None)
    reads = WordTokenizer() if source is None else ModelTokenizer(source)
    with seeding.isolate_randomness(seed):
        built = _build_model(folder if folder.is_dir() else model, reads.vocabulary)
    with torch.no_grad():
        known = built(torch.tensor([[0]])).shape[-1]
    if reads.vocabulary > known:
        raise FedsimError(
            f"the tokenizer in {source} has {reads.vocabulary} tokens, the model {known}: they are of different "
            "models. Leave out --tokenizer, or give the model's own."
        )
    context = getattr(built, "context", None)
    if adapter is not None:
        built = with_adapter(built, adapter)
    return Writer(built, reads, context if isinstance(context, int) else None)


def _build_model(model: Path | str, vocabulary: int) -> nn.Module:
    if isinstance(model, Path):  # placeholder vocabulary of 1: the checkpoint contains the size
        spec = InputSpec((1,), 1, (), (), vocabulary=1)
        method, settings = registry.get("model", "hugging-face"), {"path": model}
    else:
        spec = InputSpec((1,), vocabulary, (), (), vocabulary=vocabulary)
        method, settings = registry.get("model", model), {}
    return method.make(method.config.model_validate(settings), spec).eval()


def words(tokenizer: Tokenizer, pieces: Iterator[Sequence[int]]) -> Iterator[str]:
    """Yield decoded text piece by piece; an incomplete UTF-8 character is held back until it is complete."""
    tokens: list[int] = []
    shown = ""
    for piece in pieces:
        tokens += piece
        text = tokenizer.decode(tokens)
        if not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text
    yield tokenizer.decode(tokens)[len(shown) :]
