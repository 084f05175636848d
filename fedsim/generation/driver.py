"""Entry points of generation: input checks, batching, and streaming of pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from fedsim.core.errors import FedsimError, did_you_mean
from fedsim.core.hooks import Decoder, Generation, GenerationContext, GenerationInputs, Sampler, Unmasker
from fedsim.core.nets.kept_tokens import reducing_places
from fedsim.core.nets.visual import can_read_images
from fedsim.core.types import Generated, Limits, Tokenizer, Trace
from fedsim.generation.loop import Loop, Piece, RowState

_BATCH_SIZE = 8

Part = TypeVar("Part")


@dataclass(frozen=True)
class _Plan:
    """Rows to generate, and results of refused rows."""

    rows: list[RowState]
    refused_pieces: list[Piece]


def stream(
    decoder: Decoder[Any, Any] | Unmasker[Any, Any],
    model: nn.Module,
    condition: GenerationInputs,
    limits: Limits,
    generators: Sequence[torch.Generator],
    *,
    batch_size: int = _BATCH_SIZE,
    cuts: Sequence[str] = (),
    tokenizer: Tokenizer | None = None,
) -> Iterator[Piece]:
    """Return an iterator over the pieces of generated text; a row's last piece contains its whole result.

    A row fails with a reason if its prompt is empty, fills the context or contains an unknown token, or if scores are
    not finite; the other rows continue. A row's result depends only on its prompt and generator, not on other rows,
    except for rounding differences of the model between batch shapes.

    Args:
        decoder: decoder or unmasker.
        model: maps tokens (B, T) to scores of the next token (B, T, V), or of the token at each position. It is
            restored.
        condition: the prompts.
        limits: stopping criteria.
        generators: random source of each row.
        batch_size: maximum batch size; with `cuts` or token reducers rows run singly.
        cuts: names of modules whose outputs are recorded for an observer between layers.
        tokenizer: the model's tokenizer, for decoders that need text.

    Raises:
        FedsimError: the decoder does not support this model, the rows do not have one separate generator each, or a cut
            names no module.
    """
    _check(decoder, model, condition, generators, cuts)
    plan = _plan(condition, limits, generators, _find_vocabulary_size(model), fills_in=isinstance(decoder, Unmasker))
    context = GenerationContext((), limits, tokenizer=tokenizer)
    return _stream(decoder, model, condition, plan, context, _size(model, batch_size, cuts), cuts)


def generate(
    decoder: Decoder[Any, Any] | Unmasker[Any, Any],
    model: nn.Module,
    condition: GenerationInputs,
    limits: Limits,
    generators: Sequence[torch.Generator],
    *,
    batch_size: int = _BATCH_SIZE,
    cuts: Sequence[str] = (),
    tokenizer: Tokenizer | None = None,
    on_piece: Callable[[Piece], None] = lambda _piece: None,
) -> list[Generated]:
    """Return the result of each row; see `stream`. `on_piece` is called with each piece when it is generated."""
    options: dict[str, Any] = {"batch_size": batch_size, "cuts": cuts, "tokenizer": tokenizer}
    pieces = stream(decoder, model, condition, limits, generators, **options)
    return _collect(pieces, len(condition), on_piece)


def sample(
    sampler: Sampler[Any, Any],
    model: nn.Module,
    condition: GenerationInputs,
    shape: tuple[int, ...],
    generators: Sequence[torch.Generator],
    *,
    batch_size: int = _BATCH_SIZE,
    cuts: Sequence[str] = (),
) -> list[Generated]:
    """Return a sample of the given shape for each row; other arguments as in `stream`.

    Raises:
        FedsimError: the sampler does not support this model, the rows do not have one separate generator each, or a cut
            names no module.
    """
    _check(sampler, model, condition, generators, cuts)
    rows = [RowState(number, generator) for number, generator in enumerate(generators)]
    context = GenerationContext((), shape=shape)
    pieces = _stream(sampler, model, condition, _Plan(rows, []), context, _size(model, batch_size, cuts), cuts)
    return _collect(pieces, len(condition), lambda _piece: None)


def _stream(
    method: Generation[Any, Any],
    model: nn.Module,
    condition: GenerationInputs,
    plan: _Plan,
    context: GenerationContext,
    size: int,
    cuts: Sequence[str],
) -> Iterator[Piece]:
    yield from plan.refused_pieces
    for start in range(0, len(plan.rows), size):
        rows = plan.rows[start : start + size]
        chosen = condition.keep([row.number for row in rows])
        yield from Loop(method, model, rows, context, cuts).run(chosen)


def _collect(pieces: Iterator[Piece], rows: int, on_piece: Callable[[Piece], None]) -> list[Generated]:
    texts: dict[int, Generated] = {}
    for piece in pieces:
        on_piece(piece)
        if piece.result is not None:
            texts[piece.row] = piece.result
    return [texts[number] for number in range(rows)]


def _find_vocabulary_size(model: nn.Module) -> int | None:
    """Return the model's vocabulary size: its own statement, or the rows of its first embedding; None if absent."""
    if can_read_images(model):
        return model.visual.vocabulary
    return next((module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)), None)


def _plan(
    condition: GenerationInputs,
    limits: Limits,
    generators: Sequence[torch.Generator],
    known: int | None = None,
    *,
    fills_in: bool = False,
) -> _Plan:
    plan = _Plan([], [])
    for number, (prompt, generator) in enumerate(zip(condition.prompts, generators, strict=True)):
        reason = None if fills_in and not prompt else _refusal(number, prompt, limits, known)
        if reason is not None:
            plan.refused_pieces.append(Piece(number, (), Generated(Trace(), "failed", reason=reason)))
        elif limits.max_new_tokens == 0:
            plan.refused_pieces.append(Piece(number, (), Generated(Trace(), "length")))
        else:
            plan.rows.append(RowState(number, generator, emitted_count=len(prompt)))
    return plan


def _refusal(number: int, prompt: Sequence[int], limits: Limits, known: int | None) -> str | None:
    length = len(prompt)
    if not length:
        return (
            f"prompt {number} is empty, and generation needs at least 1 token. Begin it with "
            "the tokenizer's start token, `begin` or `end`."
        )
    if limits.context is not None and length >= limits.context:
        return (
            f"prompt {number} has {length} tokens, and the model's context is {limits.context} "
            f"tokens, generated tokens included. Shorten the prompt to {limits.context - 1} or "
            "fewer."
        )
    wrong = next((token for token in prompt if token < 0 or (known is not None and token >= known)), None)
    if wrong is not None:
        return (
            f"prompt {number} holds token {wrong}, and the model's tokens are 0 to "
            f"{(known or 1) - 1}: it comes from the tokenizer of another model. Use the model's "
            "own tokenizer."
        )
    return None


def _size(model: nn.Module, batch_size: int, cuts: Sequence[str]) -> int:
    """Return the batch size: 1 if cuts or token reducers are recorded, because records must be separable by row."""
    return 1 if cuts or reducing_places(model) else max(1, batch_size)


def _check(
    method: Generation[Any, Any],
    model: nn.Module,
    condition: GenerationInputs,
    generators: Sequence[torch.Generator],
    cuts: Sequence[str],
) -> None:
    method.check(model)
    different = len({id(generator) for generator in generators})
    if different != len(condition) or len(generators) != len(condition):
        raise FedsimError(
            f"{len(condition)} rows were requested with {different} generators: pass a separate "
            "generator for each row, for example from fedsim.core.seeding.generators."
        )
    names = [name for name, _ in model.named_modules() if name]
    unknown = [cut for cut in cuts if cut not in names]
    if unknown:
        raise FedsimError(f"cuts: the model has no module '{unknown[0]}'.{did_you_mean(unknown[0], names)}")
