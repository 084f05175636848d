"""Base classes of generation methods, which the driver in `fedsim.generation` runs.

A method defines a single step. The driver owns the loop, stopping criteria, batches and streams, and records the trace.
A state has a row per generation; a row's result must not depend on other rows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor, nn

from fedsim.core.errors import FedsimError, GenerationError
from fedsim.core.hooks.components import Component, Hook
from fedsim.core.hooks.contexts import GenerationContext
from fedsim.core.nets.kv_cache import DecodingCache
from fedsim.core.nets.masked_positions import exclude_mask_token, mask_token
from fedsim.core.types import Batch, Event, Modality, Tensors, Trace
from fedsim.core.types.configured import ANYTHING, IMAGES, ConfigT


@runtime_checkable
class RowSelectable(Protocol):
    """Objects with an entry per row."""

    def keep(self, places: Sequence[int]) -> Self:
        """Return the object with the given rows, in this order."""
        ...


@dataclass(frozen=True)
class BatchedState:
    """Dataclass whose fields have an entry per row: tensors, tuples, tensors by name, or objects with `keep`."""

    def keep(self, places: Sequence[int]) -> Self:
        """Return the object with the given rows, in this order."""
        return replace(
            self,
            **{column.name: _keep_rows(column.name, getattr(self, column.name), places) for column in fields(self)},
        )


def _keep_rows(name: str, value: Any, places: Sequence[int]) -> Any:
    if isinstance(value, RowSelectable):
        return value.keep(places)
    if isinstance(value, Tensor):
        return value[torch.tensor(places, dtype=torch.long, device=value.device)]
    if isinstance(value, tuple):
        return tuple(cast("tuple[Any, ...]", value)[place] for place in places)
    if isinstance(value, Mapping):
        return {key: _keep_rows(name, part, places) for key, part in cast("Mapping[str, Any]", value).items()}
    raise FedsimError(
        f"the field '{name}' of a generation's state is a {type(value).__name__}, which cannot "
        "be indexed by row. Make it a tensor or a tuple with an entry per row, or give its "
        "class a method keep(places)."
    )


@dataclass(frozen=True)
class GenerationInputs(BatchedState):
    """Inputs of generations.

    Attributes:
        prompts: token ids of each row; empty for samplers.
        extra_inputs: further model inputs by name, with rows in the first dimension: an image, a class.
    """

    prompts: tuple[tuple[int, ...], ...]
    extra_inputs: Tensors = field(default_factory=dict[str, Tensor])

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True)
class TextState(BatchedState):
    """State of autoregressive generation.

    Attributes:
        tokens: prompt and generated tokens of each row. Tokens are never removed.
        past: key-value cache. It changes no result; copies of a state share it.
    """

    tokens: tuple[tuple[int, ...], ...]
    past: DecodingCache = field(default_factory=DecodingCache, kw_only=True, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.tokens)

    def append_tokens(self, tokens: Sequence[Sequence[int]]) -> Self:
        """Return the state with these tokens appended to each row."""
        return replace(self, tokens=tuple((*text, *new) for text, new in zip(self.tokens, tokens, strict=True)))


@dataclass(frozen=True)
class Sampling(BatchedState):
    """State of sampling.

    Attributes:
        x: current samples, shape (B, ...).
        level: remaining steps of each row.
    """

    x: Tensor
    level: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class MaskedTextState(BatchedState):
    """State of unmasking.

    Attributes:
        tokens: prompt and answer of each row, with the mask token at masked positions.
        begins: prompt length of each row; prompt tokens are never masked.
        masked_positions: masked positions of each row, ascending, from the beginning of the text.
    """

    tokens: tuple[tuple[int, ...], ...]
    begins: tuple[int, ...]
    masked_positions: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def write_tokens(self, new: Sequence[Mapping[int, int]]) -> Self:
        """Return the state with these tokens written at masked positions of each row."""
        tokens = [
            tuple(written.get(place, token) for place, token in enumerate(text))
            for text, written in zip(self.tokens, new, strict=True)
        ]
        masked = [
            tuple(place for place in places if place not in written)
            for places, written in zip(self.masked_positions, new, strict=True)
        ]
        return replace(self, tokens=tuple(tokens), masked_positions=tuple(masked))


StateT = TypeVar("StateT", bound=TextState | Sampling | MaskedTextState)
UnmaskingT = TypeVar("UnmaskingT", bound=MaskedTextState)
WritingT = TypeVar("WritingT", bound=TextState)
SamplingT = TypeVar("SamplingT", bound=Sampling)


class Generation(Component[ConfigT], Generic[ConfigT, StateT]):
    """Generates a text or sample step by step. Derive from `Decoder`, `Sampler` or `Unmasker`.

    An instance stores nothing between steps: all data is in the state. Data that outlives a text is a separate object,
    which the instance passes to each state; it may change speed, never results. All randomness comes from the
    context's generators. The model is not changed, is in evaluation mode, and records no gradients unless a step
    enables them.

    Attributes:
        counts: names of the counts in its events, the same in each step.
    """

    counts: ClassVar[frozenset[str]]

    def check(self, model: nn.Module) -> None:
        """Raise for a model with which the method has no effect or no meaning. Called before `start`.

        Raises:
            FedsimError: the model is unsuitable; the message says what to change.
        """
        return

    @abstractmethod
    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> StateT:
        """Return the initial state, with a row per row of the condition.

        Raises:
            GenerationError: some rows cannot begin.
        """

    @abstractmethod
    def step(self, model: nn.Module, state: StateT, context: GenerationContext) -> tuple[StateT, Sequence[Event]]:
        """Return the state after a step, and an event per row. The given state must not change.

        Raises:
            GenerationError: some rows cannot continue; the driver removes them and repeats the step for the others.
        """

    @abstractmethod
    def are_finished(self, state: StateT) -> Sequence[bool]:
        """Return for each row whether it has ended by itself."""


class Decoder(Generation[ConfigT, WritingT]):
    """Hook decoder: generates tokens. The driver ends a text at a stop token, at the limit, and at the context's end.

    Attributes:
        exact: whether texts are identical to the model's own, or equally distributed, so that only speed changes.
    """

    hook: ClassVar[Hook] = "decoder"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})
    exact: ClassVar[bool] = False

    def check(self, model: nn.Module) -> None:
        """Raise for a model with a mask token.

        Raises:
            FedsimError: the model fills masked positions.
        """
        if mask_token(model) is not None:
            raise FedsimError(
                f"decoder '{self.name}' writes from left to right, and the model {type(model).__name__} fills in "
                "masked places: its scores are not of the next token. Choose an unmasker, such as 'fixed' or "
                "'threshold', or a model such as 'tiny-llama'."
            )

    def fit_to_texts(self, model: nn.Module, texts: Batch) -> Self:
        """Return the decoder with settings fitted to a client's texts; the decoder itself if no setting needs fitting.

        Args:
            model: generating model.
            texts: texts outside the model's training data: tokens (N, T), and the next tokens.

        Raises:
            FedsimError: fitting failed.
        """
        return self

    def are_finished(self, state: WritingT) -> Sequence[bool]:
        """Return False for all rows: no text ends by itself."""
        return [False] * len(state)

    def next_scores(self, model: nn.Module, state: WritingT) -> Tensor:
        """Return the model's next-token scores of each row, shape (B, V).

        Args:
            model: causal model, maps tokens (B, T) to scores of the next token (B, T, V).
            state: nonempty rows of any length.

        Raises:
            GenerationError: scores of some rows are not finite.
        """
        scores = torch.cat(state.past.scores(model, state.tokens))
        check_scores([score[None] for score in scores])
        return scores


class WeightedDecoder(Decoder[ConfigT, WritingT]):
    """A decoder that weights its texts, so that the mean weight is an unbiased estimate of a constraint's probability.

    `fedsim.questions.exposure.pattern_probability` uses the registered weighers. Their events count `calls` of the
    constraint, and `rows`: texts that the model evaluated.
    """

    @classmethod
    @abstractmethod
    def within(cls, pattern: str, particles: int) -> Self:
        """Return a weigher whose texts match a regular expression and end as soon as they do, with `particles` per row.

        Raises:
            FedsimError: the pattern is invalid.
            MissingExtra: a package is not installed.
        """

    @abstractmethod
    def log_evidence(self, state: WritingT) -> Sequence[float | None]:
        """Return for each row ln of the mean weight of its whole texts; None while a text can still grow."""


def check_scores(scores: Sequence[Tensor]) -> None:
    """Check the first scores of each row's (n, V), those after its text; scores of drafts may be non-finite.

    Raises:
        GenerationError: scores of some rows are not finite.
    """
    is_broken = ~torch.stack([score[0] for score in scores]).amax(-1).isfinite()  # NaN entries make the maximum NaN
    if is_broken.any():
        raise GenerationError(
            "the model's scores of the next token are not finite. Check its weights: the training may have diverged.",
            is_broken.nonzero().flatten().tolist(),
        )


class Sampler(Generation[ConfigT, SamplingT]):
    """Hook sampler: generates samples x of the context's shape, from noise to the last noise level.

    The model maps x (B, ...) and the standard deviation of its noise (B,) to denoised x, D(x, s).
    """

    hook: ClassVar[Hook] = "sampler"
    modalities: ClassVar[frozenset[Modality]] = IMAGES


class Unmasker(Generation[ConfigT, UnmaskingT]):
    """Hook unmasker: fills masked positions, any number per step and in any order. Written tokens are final.

    The model maps tokens (B, T), with its `mask_token` at masked positions, to scores (B, T, V) of the token at each
    position; each position may attend to all others. `Limits.max_new_tokens` positions after the prompt are masked.
    `GenerationInputs.extra_inputs["answer"]`, shape (B, G), contains given answer tokens and mask tokens.
    A text ends when no position is masked, or when a stop token precedes the first masked position.
    """

    hook: ClassVar[Hook] = "unmasker"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})

    def are_finished(self, state: UnmaskingT) -> Sequence[bool]:
        """Return for each row whether no position is masked."""
        return [not places for places in state.masked_positions]

    def begin(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> MaskedTextState:
        """Return the prompts followed by masked positions.

        Raises:
            FedsimError: the model has no mask token, or given answers have another length.
            GenerationError: the model cannot read some prompts with their answers.
        """
        mask, limits = mask_token_of(model), context.limits
        assert limits is not None, "an unmasker has limits"
        count = limits.max_new_tokens
        given = condition.extra_inputs.get("answer", torch.full((len(condition), count), mask))
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
        return MaskedTextState(tokens, begins, masked)

    def place_scores(self, model: nn.Module, state: UnmaskingT) -> list[Tensor]:
        """Return the model's scores at each position of each row, (T, V), in one pass for all rows of equal length.

        Raises:
            GenerationError: scores of some rows at masked positions are not finite.
        """
        scores: list[Tensor] = [torch.empty(0)] * len(state)
        for length in sorted(set(map(len, state.tokens))):
            rows = [row for row, text in enumerate(state.tokens) if len(text) == length]
            for row, row_scores in zip(rows, model(torch.tensor([state.tokens[row] for row in rows])), strict=True):
                scores[row] = exclude_mask_token(row_scores, mask_token_of(model))
        check_place_scores(
            [text_scores[[*masked]] for text_scores, masked in zip(scores, state.masked_positions, strict=True)]
        )
        return scores


def check_place_scores(scores: Sequence[Tensor]) -> None:
    """Check the scores (n, V) of the masked positions of each row.

    Raises:
        GenerationError: scores of some rows are not finite.
    """
    largest = [score.amax(-1) for score in scores]
    check_scores([top.where(top.isfinite(), torch.nan).amax().view(1, 1) for top in largest])


def mask_token_of(model: nn.Module) -> int:
    """Return the mask token of a model.

    Raises:
        FedsimError: the model has none.
    """
    token = mask_token(model)
    if token is not None:
        return token
    raise FedsimError(
        f"the model {type(model).__name__} has no mask token, so it cannot fill masked "
        "positions. Use a masked diffusion model with a mask_token, such as 'tiny-llada', or "
        "an autoregressive decoder."
    )


def _check_room(model: nn.Module, condition: GenerationInputs, count: int, limit: int | None) -> None:
    context = getattr(model, "context", None)
    rooms = [room for room in (context, limit) if isinstance(room, int)]
    if not rooms:
        return
    room = min(rooms)
    full = [row for row, prompt in enumerate(condition.prompts) if len(prompt) + count > room]
    if full:
        raise GenerationError(
            f"the prompt has {len(condition.prompts[full[0]])} tokens and its answer {count} places, and the model "
            f"reads {room} in all. Shorten the prompt, or ask for fewer tokens.",
            full,
        )


class Mitigation(Component[ConfigT]):
    """Hook mitigation: changes the observable trace of generations, not their text."""

    hook: ClassVar[Hook] = "mitigation"
    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    @abstractmethod
    def transform(self, traces: Sequence[Trace], generator: torch.Generator) -> list[Trace]:
        """Return the observable trace of each text.

        Args:
            traces: traces of all texts that an observer may compare; they are not changed.
            generator: random source of the mitigation.
        """
