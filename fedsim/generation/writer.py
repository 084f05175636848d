"""A model with its tokenizer, ready to write: by a name, or from a checkpoint's folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from fedsim.core import checkpoints, registry, seeding
from fedsim.core.errors import FedsimError
from fedsim.core.past import stack_of
from fedsim.core.types import InputSpec, Tokenizer, Trace
from fedsim.data._tokenizer import ModelTokenizer, WordTokenizer
from fedsim.generation.peft_folder import with_adapter


@dataclass(frozen=True)
class Writer:
    """What writes.

    Attributes:
        model: in evaluation mode.
        tokenizer: of its tokens.
        context: tokens that it reads; None where it sets no limit.
    """

    model: nn.Module
    tokenizer: Tokenizer
    context: int | None

    def passes(self, trace: Trace) -> float:
        """Return how many full forward passes a generation took.

        That is the layers that ran over all layers; where no layers were counted, the rows that were read; else steps.
        The output layer is no part of it.
        """
        series, stack = trace.series(), stack_of(self.model)
        if "layers" in series:
            return sum(series["layers"]) / (1 if stack is None else stack.depth)
        return sum(series["rows"]) if "rows" in series else len(trace.tokens)


def load_writer(model: str, tokenizer: Path | None = None, seed: int = 0, adapter: Path | None = None) -> Writer:
    """Load a model that writes.

    Args:
        model: a folder with a Hugging Face checkpoint, or a model's name. All but `smollm2-135m` come without training.
        tokenizer: folder of another tokenizer than the model's own.
        seed: of weights that are not trained.
        adapter: folder of a low-rank adapter of package peft.

    Raises:
        MissingExtra: a package is not installed.
        FedsimError: there is no such model, or tokenizer or adapter belong to another one.
    """
    folder = checkpoints.smollm2() if model == checkpoints.SMOLLM2 else Path(model)
    if not folder.is_dir() and (folder.is_absolute() or len(folder.parts) > 1):
        raise FedsimError(
            f"there is no folder {folder}. Give one with config.json and *.safetensors, or a model's name."
        )
    source = tokenizer or (folder if folder.is_dir() else None)
    reads = WordTokenizer() if source is None else ModelTokenizer(source)
    with seeding.isolate_randomness(seed):
        built = _built(folder if folder.is_dir() else model, reads.vocabulary)
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


def _built(model: Path | str, vocabulary: int) -> nn.Module:
    if isinstance(model, Path):  # of one token, so that the checkpoint alone says how many it has
        spec = InputSpec((1,), 1, (), (), vocabulary=1)
        method, settings = registry.get("model", "hugging-face"), {"path": model}
    else:
        spec = InputSpec((1,), vocabulary, (), (), vocabulary=vocabulary)
        method, settings = registry.get("model", model), {}
    return method.make(method.config.model_validate(settings), spec).eval()


def words(tokenizer: Tokenizer, pieces: Iterator[Sequence[int]]) -> Iterator[str]:
    """Yield text as tokens come; half a letter waits for its other half."""
    tokens: list[int] = []
    shown = ""
    for piece in pieces:
        tokens += piece
        text = tokenizer.decode(tokens)
        if not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text
    yield tokenizer.decode(tokens)[len(shown) :]
