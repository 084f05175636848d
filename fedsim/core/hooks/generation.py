"""What writes texts or draws samples with a trained model. The driver of `fedsim.generation` runs it.

A method says how one step goes. The driver owns the loop, the rules that end a text, batches and streams, and writes
the trace. A state has several rows, one a generation; a row's result must not depend on those beside it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor, nn

from fedsim.core.errors import CannotContinue, FedsimError
from fedsim.core.hooks.components import Component, Hook
from fedsim.core.hooks.contexts import GenerationContext
from fedsim.core.masked_places import mask_token, without_mask
from fedsim.core.past import Past
from fedsim.core.types import Batch, Event, Modality, Tensors
from fedsim.core.types.configured import IMAGES, ConfigT


@runtime_checkable
class Leaving(Protocol):
    """What rows can leave."""

    def keep(self, places: Sequence[int]) -> Self:
        """Return it with the rows at these places alone, in their order."""
        ...


@dataclass(frozen=True)
class Rows:
    """What has one entry a row in every field: tensors, tuples, tensors by name, or what has a `keep` of its own."""

    def keep(self, places: Sequence[int]) -> Self:
        """Return it with the rows at these places alone, in their order."""
        return replace(
            self, **{column.name: _kept(column.name, getattr(self, column.name), places) for column in fields(self)}
        )


def _kept(name: str, value: Any, places: Sequence[int]) -> Any:
    if isinstance(value, Leaving):
        return value.keep(places)
    if isinstance(value, Tensor):
        return value[torch.tensor(places, dtype=torch.long, device=value.device)]
    if isinstance(value, tuple):
        return tuple(cast("tuple[Any, ...]", value)[place] for place in places)
    if isinstance(value, Mapping):
        return {key: _kept(name, part, places) for key, part in cast("Mapping[str, Any]", value).items()}
    raise FedsimError(
        f"the field '{name}' of a generation's state is a {type(value).__name__}, out of which no row can be taken. "
        "Make it a tensor or a tuple with one entry a row, or give its class a method keep(places)."
    )


@dataclass(frozen=True)
class Condition(Rows):
    """What generations start from.

    Attributes:
        prompts: the tokens of each row; empty for samplers.
        given: what else the model reads, by name, first dimension is the row: an image, a class.
    """

    prompts: tuple[tuple[int, ...], ...]
    given: Tensors = field(default_factory=dict[str, Tensor])

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True)
class Writing(Rows):
    """Texts that are being written.

    Attributes:
        tokens: of each row, the prompt and what stands behind it. What stands is never taken back.
        past: what the model has read of the rows. It saves work and changes no result; copies of a state share it.
    """

    tokens: tuple[tuple[int, ...], ...]
    past: Past = field(default_factory=Past, kw_only=True, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.tokens)

    def extended(self, more: Sequence[Sequence[int]]) -> Self:
        """Return the state with these tokens behind those of each row."""
        return replace(self, tokens=tuple((*text, *new) for text, new in zip(self.tokens, more, strict=True)))


@dataclass(frozen=True)
class Sampling(Rows):
    """Samples that are being drawn.

    Attributes:
        x: as far as they are, shape (B, ...).
        level: steps that each row has still to go.
    """

    x: Tensor
    level: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Unmasking(Rows):
    """Texts that are being filled in.

    Attributes:
        tokens: of each row, prompt and answer; the mask token at places that are masked.
        begins: of each row, the tokens of its prompt, which are never masked.
        masked: of each row, the places that are masked, ascending, counted from the beginning of the text.
    """

    tokens: tuple[tuple[int, ...], ...]
    begins: tuple[int, ...]
    masked: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def filled(self, new: Sequence[Mapping[int, int]]) -> Self:
        """Return the state with these tokens at masked places of each row, which are masked no longer."""
        tokens = [
            tuple(written.get(place, token) for place, token in enumerate(text))
            for text, written in zip(self.tokens, new, strict=True)
        ]
        masked = [
            tuple(place for place in places if place not in written)
            for places, written in zip(self.masked, new, strict=True)
        ]
        return replace(self, tokens=tuple(tokens), masked=tuple(masked))


StateT = TypeVar("StateT", bound=Writing | Sampling | Unmasking)
UnmaskingT = TypeVar("UnmaskingT", bound=Unmasking)
WritingT = TypeVar("WritingT", bound=Writing)
SamplingT = TypeVar("SamplingT", bound=Sampling)


class Generation(Component[ConfigT], Generic[ConfigT, StateT]):
    """Turns a condition into a text or a sample, step by step. Derive from `Decoder`, `Sampler` or `Unmasker`.

    An instance keeps nothing between steps: what it needs stands in the state. What outlives a text is an object of
    its own, which the instance hands to every state; it may change speed, never results. All randomness comes from the
    context's generators. The model stays as it is, is in evaluation mode, and records no gradients unless a step asks
    for them.

    Attributes:
        counts: names of what its events count, the same in every step.
    """

    counts: ClassVar[frozenset[str]]

    def check(self, model: nn.Module) -> None:
        """Refuse a model with which it would do nothing, or nothing of sense. Whoever runs it asks before `start`.

        Raises:
            FedsimError: it does; the message says what to change.
        """
        return

    @abstractmethod
    def start(self, model: nn.Module, condition: Condition, context: GenerationContext) -> StateT:
        """Return the state before the first step, one row for each of the condition.

        Raises:
            CannotContinue: some rows have no way to begin.
        """

    @abstractmethod
    def step(self, model: nn.Module, state: StateT, context: GenerationContext) -> tuple[StateT, Sequence[Event]]:
        """Return the state after one step, and what the step did to each row. The given state stays as it is.

        Raises:
            CannotContinue: some rows have no way on; the driver takes them out and asks again for the others.
        """

    @abstractmethod
    def finished(self, state: StateT) -> Sequence[bool]:
        """Say of each row whether it has ended by itself."""


class Decoder(Generation[ConfigT, WritingT]):
    """Hook decoder: writes tokens. The driver ends a text at a stop token, at the limit, and at the context's end.

    Attributes:
        exact: whether texts are the model's own, or have their law, so that only speed is gained.
    """

    hook: ClassVar[Hook] = "decoder"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})
    exact: ClassVar[bool] = False

    def check(self, model: nn.Module) -> None:
        """Refuse a model that fills in masked places.

        Raises:
            FedsimError: it does.
        """
        if mask_token(model) is not None:
            raise FedsimError(
                f"decoder '{self.name}' writes from left to right, and the model {type(model).__name__} fills in "
                "masked places: its scores are not of the next token. Choose an unmasker, such as 'fixed' or "
                "'threshold', or a model such as 'tiny-llama'."
            )

    def fitted(self, model: nn.Module, texts: Batch) -> Self:
        """Return the decoder with settings that fit a client's texts; it itself, where no setting asks for that.

        Args:
            model: that will write.
            texts: that the model was not trained on: tokens (N, T), and the tokens that follow.

        Raises:
            FedsimError: no setting fits.
        """
        return self

    def finished(self, state: WritingT) -> Sequence[bool]:
        """Say that no text ends by itself."""
        return [False] * len(state)

    def next_scores(self, model: nn.Module, state: WritingT) -> Tensor:
        """Return the model's scores of the token behind each row, shape (B, V).

        Args:
            model: tokens (B, T) to scores of the next token (B, T, V); no token sees those behind it.
            state: rows of any lengths from one token.

        Raises:
            CannotContinue: scores of some rows are no numbers.
        """
        scores = torch.cat(state.past.scores(model, state.tokens))
        check_scores([score[None] for score in scores])
        return scores


class Weigher(Decoder[ConfigT, WritingT]):
    """A decoder that weighs its texts, so that their mean weight is unbiased for the probability of a constraint.

    `fedsim.threat.emission` asks the registered ones. Their events count `calls` of the constraint, and `rows`: texts
    that the model was shown.
    """

    @classmethod
    @abstractmethod
    def within(cls, pattern: str, particles: int) -> Self:
        """Return one whose texts match a regular expression and end as soon as they do, and that weighs so many a row.

        Raises:
            FedsimError: there is no such pattern.
            MissingExtra: a package is not installed.
        """

    @abstractmethod
    def log_evidence(self, state: WritingT) -> Sequence[float | None]:
        """Return of each row ln of the mean weight of its whole texts; None while one goes on and has room."""


def check_scores(scores: Sequence[Tensor]) -> None:
    """Check the scores (n, V) of each row behind its text, which stand first; those of drafts may be no numbers.

    Raises:
        CannotContinue: scores of some rows are no finite numbers.
    """
    is_broken = ~torch.stack([score[0] for score in scores]).amax(-1).isfinite()  # of a number that is none, it is none
    if is_broken.any():
        raise CannotContinue(
            "the model's scores of the next token are no finite numbers. Look at its weights: a training that "
            "diverged leaves such ones.",
            is_broken.nonzero().flatten().tolist(),
        )


class Sampler(Generation[ConfigT, SamplingT]):
    """Hook sampler: draws samples x of the context's shape, from noise to the last level.

    The model takes x (B, ...) and the standard deviation of its noise (B,), and returns x without noise, D(x, s).
    """

    hook: ClassVar[Hook] = "sampler"
    modalities: ClassVar[frozenset[Modality]] = IMAGES


class Unmasker(Generation[ConfigT, UnmaskingT]):
    """Hook unmasker: fills in masked places, any number in a step and in any order. What is written stays.

    The model takes tokens (B, T), with its `mask_token` at masked places, and returns scores (B, T, V) of the token at
    each place; every place may see all others. As many places are masked behind a prompt as `Limits.max_new_tokens`
    says. `Condition.given["answer"]`, shape (B, G), says what stands there already, with the mask token elsewhere. A
    text ends where nothing is masked, or where a stop token stands before the first place that is.
    """

    hook: ClassVar[Hook] = "unmasker"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})

    def finished(self, state: UnmaskingT) -> Sequence[bool]:
        """Say of each row whether nothing is masked."""
        return [not places for places in state.masked]

    def begin(self, model: nn.Module, condition: Condition, context: GenerationContext) -> Unmasking:
        """Return the prompts with masked places behind them.

        Raises:
            FedsimError: the model has no mask token, or answers of another length are given.
            CannotContinue: the model cannot read some prompts with their answers.
        """
        mask, limits = mask_token_of(model), context.limits
        assert limits is not None, "who fills in a text has limits"
        count = limits.max_new_tokens
        given = condition.given.get("answer", torch.full((len(condition), count), mask))
        if given.shape != (len(condition), count):
            raise FedsimError(
                f"given['answer'] has shape {tuple(given.shape)}, expected {(len(condition), count)}: a row for each "
                "prompt, with as many places as limits.max_new_tokens."
            )
        _check_room(model, condition, count, limits.context)
        tokens = tuple((*prompt, *answer) for prompt, answer in zip(condition.prompts, given.tolist(), strict=True))
        begins = tuple(map(len, condition.prompts))
        masked = tuple(
            tuple(place for place in range(begin, len(text)) if text[place] == mask)
            for begin, text in zip(begins, tokens, strict=True)
        )
        return Unmasking(tokens, begins, masked)

    def place_scores(self, model: nn.Module, state: UnmaskingT) -> list[Tensor]:
        """Return the model's scores at every place of each row, (T, V), in one pass for all rows of a length.

        Raises:
            CannotContinue: scores of some rows at masked places are no numbers.
        """
        scores: list[Tensor] = [torch.empty(0)] * len(state)
        for length in sorted(set(map(len, state.tokens))):
            rows = [row for row, text in enumerate(state.tokens) if len(text) == length]
            for row, row_scores in zip(rows, model(torch.tensor([state.tokens[row] for row in rows])), strict=True):
                scores[row] = without_mask(row_scores, mask_token_of(model))
        check_place_scores([text_scores[[*masked]] for text_scores, masked in zip(scores, state.masked, strict=True)])
        return scores


def check_place_scores(scores: Sequence[Tensor]) -> None:
    """Check the scores (n, V) of masked places of each row.

    Raises:
        CannotContinue: those of any place of some rows are no finite numbers.
    """
    largest = [score.amax(-1) for score in scores]
    check_scores([top.where(top.isfinite(), torch.nan).amax().view(1, 1) for top in largest])


def mask_token_of(model: nn.Module) -> int:
    """Return the token that stands at masked places.

    Raises:
        FedsimError: the model has none.
    """
    token = mask_token(model)
    if token is not None:
        return token
    raise FedsimError(
        f"the model {type(model).__name__} has no mask token, so it cannot fill in masked places. Use one that was "
        "trained for it and names its mask_token, such as 'tiny-llada', or a decoder that writes from left to right."
    )


def _check_room(model: nn.Module, condition: Condition, count: int, limit: int | None) -> None:
    context = getattr(model, "context", None)
    rooms = [room for room in (context, limit) if isinstance(room, int)]
    if not rooms:
        return
    room = min(rooms)
    full = [row for row, prompt in enumerate(condition.prompts) if len(prompt) + count > room]
    if full:
        raise CannotContinue(
            f"the prompt has {len(condition.prompts[full[0]])} tokens and its answer {count} places, and the model "
            f"reads {room} in all. Shorten the prompt, or ask for fewer tokens.",
            full,
        )
