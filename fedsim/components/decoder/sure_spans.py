"""sure-spans: appends pad tokens, and generates the predicted tokens in which the model is confident, in a single step.

Idea: parts of words, names and idioms are almost certain after their beginning; a model trained on pads generates them
    in a single step.
Equation: D_0 at the last token, D_j at pad j; the token of D_0 is always generated, v_j = argmax D_j as long as
    D_j[v_j] >= beta (or beta^(1/j), or the product of all up to j) and v_j neither repeats nor extends v_{j-1}.
Assumes: a causal language model trained by component `pad-blocks`. Texts are not distributed as the model's own.
Leaks: tokens per step show the model's confidence, and so which spans it was trained on; packets show them.
Fails: without trained pads few tokens are accepted, and pads only cost; code gives longer spans than prose.
Source: inspired by lexical unit decoding, Sun, Zhang, Lin et al. 2024, arXiv 2405.15208; thresholds and the definition
    of repeats are chosen here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.core.pads import embedding_of, pad_of
from fedsim.components.decoder._drafting import DraftedTexts, count_text_tokens
from fedsim.components.decoder._drawing import draw
from fedsim.components.decoder._odds import DrawConfig, finite
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Decoder, GenerationContext, GenerationInputs, check_scores
from fedsim.core.nets.kv_cache import Draft
from fedsim.core.registry import component
from fedsim.core.types import Event, Tokenizer


class SureSpansConfig(DrawConfig):
    """Settings of pads and acceptance; temperature and top_p apply to the first token of a step."""

    pads: int = Field(default=3, ge=0, description="pads k that are read, K - 1 of the training; 0: greedy")
    beta: float = Field(default=0.9, ge=0, description="probability from which a follower is written; above 1: none is")
    rule: Literal["each", "root", "product"] = Field(
        default="each",
        description="quantity compared with beta: each probability, its j-th power, or the product up to it",
    )
    ngram: int | None = Field(
        default=None, ge=2, description="length of token n-grams that must not repeat directly; unset: no limit"
    )
    pad: int | None = Field(
        default=None,
        ge=0,
        description="pad token; unset: the model's pad token, or token 0 if the model has none",
    )


@final
@component(
    "sure-spans",
    aliases=("lexical-unit",),
    summary="decoder: spans the model is sure of, at once from pads",
    tier="research",
    paper="2405.15208",
    fidelity="inspired",
    deviates="only abstract and README were read; thresholds are chosen here",
    paper_steps=(
        ("pads predict followers, the sure prefix is written", "SureSpans._unit"),
        ("without confidence it is decoding token by token", "SureSpans.step"),
    ),
)
class SureSpans(Decoder[SureSpansConfig, DraftedTexts]):
    """Generates the next token, and the following ones that pads predict with confidence."""

    counts: ClassVar[frozenset[str]] = frozenset({"proposed", "accepted"})

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> DraftedTexts:
        """Return the prompts.

        Raises:
            FedsimError: the pad's id is outside the model's vocabulary.
        """
        embedding, pad = embedding_of(model), self._pad(model)
        vocabulary = pad if embedding is None else embedding.num_embeddings - (pad_of(model) is None)
        if pad > vocabulary:
            raise FedsimError(
                f"pad is {pad}, and the model's tokens end at {vocabulary}. Choose a token of the model, or leave "
                "'pad' out: component 'pad-blocks' gives the model its own pad."
            )
        return DraftedTexts(condition.prompts, tuple(map(len, condition.prompts)))

    def step(
        self, model: nn.Module, state: DraftedTexts, context: GenerationContext
    ) -> tuple[DraftedTexts, list[Event]]:
        """Append pads to each row, and generate a unit.

        Raises:
            GenerationError: scores of some rows are not finite.
        """
        pad = self._pad(model)
        drafts = [Draft.line([pad] * state.room(row, context, self.config.pads)) for row in range(len(state))]
        # Cached keys of pads are dropped at the next step, when the text has tokens at their positions.
        scores = state.past.scores(model, state.tokens, drafts)
        check_scores(scores)
        new = [
            self._unit(text, scored, generator, context.tokenizer)
            for text, scored, generator in zip(state.tokens, scores, context.generators, strict=True)
        ]
        events = [
            Event(proposed=len(draft), accepted=count_text_tokens(unit, context) - 1)
            for draft, unit in zip(drafts, new, strict=True)
        ]
        return state.append_tokens(new), events

    def _pad(self, model: nn.Module) -> int:
        if self.config.pad is not None:
            return self.config.pad
        token = pad_of(model)
        return 0 if token is None else token

    def _unit(
        self, text: Sequence[int], scores: Tensor, generator: torch.Generator, tokenizer: Tokenizer | None
    ) -> list[int]:
        """Return the tokens of a step, from scores (1 + pads, V)."""
        unit = draw(self.config.odds(scores[:1]), [generator])
        odds, tokens = finite(scores)[1:].double().softmax(-1).max(-1)
        product = 1.0
        for place, (chance, token) in enumerate(zip(odds.tolist(), tokens.tolist(), strict=True), 1):
            product *= chance
            held = {"each": chance, "root": chance**place, "product": product}[self.config.rule]
            if held < self.config.beta or _extends(unit[-1], token, tokenizer):
                break
            if self.config.ngram and _repeats([*text, *unit, token], self.config.ngram):
                break
            unit.append(token)
        return unit


def _extends(before: int, token: int, tokenizer: Tokenizer | None) -> bool:
    """Return whether a token equals the previous token, or its text begins with that of the previous token."""
    if token == before or tokenizer is None:
        return token == before
    first, second = (tokenizer.decode([number]).strip() for number in (before, token))
    return bool(first) and second.startswith(first)


def _repeats(text: Sequence[int], length: int) -> bool:
    """Return whether the last `length` tokens repeat the `length` tokens before them."""
    return len(text) >= 2 * length and list(text[-length:]) == list(text[-2 * length : -length])
