"""cfg-constrained: writes a token only if the text with its gaps can still be completed to a text of a grammar.

Idea: positions are written in any order, so a prefix check is insufficient; a text with gaps is a regular language,
    whose intersection with a context-free grammar can be tested for emptiness.
Equation: write v at i if L(G) and R(x, x_i = v) intersect; else rule v out at i permanently, and try the next most
    confident token.
Assumes: a model that fills masked positions; a grammar with a text of the answer's length.
Leaks: rejections show how often the model's choice violated the grammar, which differs for known and unknown texts.
Fails: the time of a check grows with the number of different spellings in the vocabulary.
Source: Muendler et al. 2025, arXiv 2508.10111, without its lexing. A masked position becomes one token of the
    vocabulary; the paper lets it become any text, which may not fit into the positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.unmasker._blocks import BlockConfig, InBlocks, add_gumbel_noise, block_places, confidences
from fedsim.components.unmasker._emptiness import END, MASKED, Automaton, completions, has_text, witness
from fedsim.components.unmasker._grammar import Grammar, read_grammar, representatives, token_symbol
from fedsim.components.unmasker._lark_grammar import read_lark
from fedsim.core.errors import FedsimError, GenerationError
from fedsim.core.hooks import GenerationContext, GenerationInputs, MaskedTextState, mask_token_of
from fedsim.core.registry import component
from fedsim.core.types import Event, Tokenizer

_NO_WAY = (
    "the grammar has no text that agrees with the answer: it has too few or too many positions, or its "
    "fixed tokens contradict the grammar. Change the number of positions, the grammar, or the fixed tokens."
)


class CfgConstrainedConfig(BlockConfig):
    """Settings of grammar constraints."""

    grammar: str = Field(
        min_length=1,
        examples=["S = Sign | Sign S\nSign = 0 | 1 | 2 | 3 | 4 | 5"],
        description='rules, each on its own line: S = "(" S ")" S | "x" | ; numbers denote tokens',
    )
    notation: Literal["rules", "lark"] = Field(
        default="rules", description="how the grammar is written; lark: that of the package, from rule `start` on"
    )
    positions_per_step: int = Field(
        default=1, ge=1, description="positions per step; each is checked after the earlier positions are unmasked"
    )
    rejections: int = Field(
        default=1000, ge=1, description="rejected tokens of a text, behind which it is completed by the grammar alone"
    )


@dataclass(frozen=True)
class Constrained(MaskedTextState):
    """Texts, with the (position, token) pairs ruled out and the number of rejections of each."""

    ruled_out: tuple[frozenset[tuple[int, int]], ...]
    rejection_counts: tuple[int, ...]


@dataclass(frozen=True)
class _Alphabet:
    """Symbols of the model's tokens.

    Attributes:
        spells: symbols of each token; None if it can occur in no text of the grammar; END for stop tokens.
        tokens: the first token of each spelling.
    """

    spells: tuple[tuple[str, ...] | None, ...]
    tokens: dict[tuple[str, ...], int]

    @property
    def ends(self) -> bool:
        return END in self.spells

    @property
    def end(self) -> int:
        """The first stop token; -1 if absent."""
        return self.spells.index(END) if self.ends else -1


@final
@component(
    "cfg-constrained",
    summary="unmasker: texts of a context-free grammar alone",
    tier="research",
    paper="2508.10111",
    fidelity="variant",
    deviates="without its lexing; a masked position becomes one token, where the paper allows any text",
    paper_steps=(
        ("a token is written if text and grammar share a completion", "CfgConstrained._try"),
        (
            "emptiness of the grammar's intersection with the text's completions",
            "fedsim.components.unmasker._emptiness.has_text",
        ),
        ("rejected tokens are ruled out, the next surest is tried", "CfgConstrained._write"),
        ("completion by the grammar behind too many rejections", "CfgConstrained._complete"),
        ("lexing: terminals of several characters", ""),
    ),
)
class CfgConstrained(InBlocks[CfgConstrainedConfig, Constrained]):
    """Writes the most confident tokens that leave a completion in the grammar."""

    counts: ClassVar[frozenset[str]] = frozenset({"unmasked", "masked", "positions", "calls", "rejected", "completed"})

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Constrained:
        """Return the prompts followed by masked positions.

        Raises:
            FedsimError: the grammar is invalid, or the block does not divide an answer.
            GenerationError: the model cannot read some prompts, or the grammar has no text for some answers.
        """
        grammar = self._grammar()
        begun = self.begin(model, condition, context)
        rows = len(begun)
        state = Constrained(begun.tokens, begun.begins, begun.masked_positions, (frozenset(),) * rows, (0,) * rows)
        mask = mask_token_of(model)
        alphabet = self._alphabet(mask, model(torch.tensor([[mask]])).shape[-1], grammar, context)
        stuck = [row for row in range(rows) if not self._is_completable(grammar, alphabet, state, row)]
        if stuck:
            raise GenerationError(_NO_WAY, stuck)
        return state

    def step(self, model: nn.Module, state: Constrained, context: GenerationContext) -> tuple[Constrained, list[Event]]:
        """Write the most confident admissible tokens of each row.

        Raises:
            GenerationError: scores of some rows are not finite.
        """
        grammar, all_scores = self._grammar(), self.place_scores(model, state)
        alphabet = self._alphabet(mask_token_of(model), all_scores[0].shape[-1], grammar, context)
        rows: list[_Row] = []
        for row, (scores, generator) in enumerate(zip(all_scores, context.generators, strict=True)):
            written_row = _Row(state.keep([row]))
            self._write(written_row, scores, grammar, alphabet, generator)
            if written_row.is_stuck:
                self._complete(written_row, grammar, alphabet)
            rows.append(written_row)
        after = replace(
            state.write_tokens([one_row.new for one_row in rows]),
            ruled_out=tuple(one_row.state.ruled_out[0] for one_row in rows),
            rejection_counts=tuple(one_row.state.rejection_counts[0] for one_row in rows),
        )
        return after, [one_row.event(len(tokens)) for one_row, tokens in zip(rows, state.tokens, strict=True)]

    def _write(
        self, row_state: _Row, scores: Tensor, grammar: Grammar, alphabet: _Alphabet, generator: torch.Generator
    ) -> None:
        """Write up to `positions_per_step` of the most confident admissible tokens."""
        places = block_places(row_state.state, 0, self.config.block)
        odds = scores[list(places)].double().softmax(-1)
        wanted = add_gumbel_noise(scores[list(places)], self.config.temperature, generator)
        wanted[:, [token for token, spelled in enumerate(alphabet.spells) if spelled is None]] = -torch.inf
        for place, token in row_state.state.ruled_out[0]:
            if place in places:
                wanted[places.index(place), token] = -torch.inf
        while len(row_state.new) < self.config.positions_per_step and row_state.state.masked_positions[0]:
            tokens = wanted.argmax(-1)
            confidence = confidences(odds, tokens, self.config, generator)
            closed = wanted.amax(-1).isneginf() | torch.tensor(
                [place not in row_state.state.masked_positions[0] for place in places]
            )
            if closed.all():
                row_state.is_stuck = not row_state.new
                return
            number = int(confidence.masked_fill(closed, -torch.inf).argmax())
            if self._try(row_state, places[number], int(tokens[number]), grammar, alphabet):
                continue
            wanted[number, tokens[number]] = -torch.inf
            if row_state.state.rejection_counts[0] >= self.config.rejections:
                row_state.is_stuck = True
                return

    def _try(self, row_state: _Row, place: int, token: int, grammar: Grammar, alphabet: _Alphabet) -> bool:
        """Write a token if a completion in the grammar remains, else rule it out; return whether it was written."""
        written = {place: token}
        is_end = alphabet.spells[token] == END
        if is_end:
            written |= {
                later_place: token for later_place in row_state.state.masked_positions[0] if later_place > place
            }
        after = row_state.state.write_tokens([written])
        ended = is_end and any(alphabet.spells[token] != END for token in after.tokens[0][place:])
        row_state.calls += not ended
        if not ended and self._is_completable(grammar, alphabet, after, 0):
            row_state.state, row_state.new = after, row_state.new | written
            return True
        row_state.reject(place, token)
        return False

    def _complete(self, row_state: _Row, grammar: Grammar, alphabet: _Alphabet) -> None:
        """Write the tokens of a text of the grammar at all masked positions."""
        automaton = self._completions(alphabet, row_state.state, 0)
        spellings = None if automaton is None else witness(grammar, automaton)
        assert spellings is not None, "the unmasked tokens can be completed"
        begin, end = row_state.state.begins[0], alphabet.end
        written = {
            place: alphabet.tokens[spellings[place - begin]] if place - begin < len(spellings) else end
            for place in row_state.state.masked_positions[0]
        }
        row_state.state, row_state.new, row_state.completed_count = (
            row_state.state.write_tokens([written]),
            row_state.new | written,
            len(written),
        )

    def _is_completable(self, grammar: Grammar, alphabet: _Alphabet, state: Constrained, row: int) -> bool:
        """Return whether a row can become a text of the grammar."""
        automaton = self._completions(alphabet, state, row)
        return automaton is not None and has_text(grammar, automaton)

    def _completions(self, alphabet: _Alphabet, state: Constrained, row: int) -> Automaton | None:
        """Return the texts that a row can become; None if an unmasked token can occur in no text."""
        masked, answer = set(state.masked_positions[row]), range(state.begins[row], len(state.tokens[row]))
        pattern = [MASKED if place in masked else alphabet.spells[state.tokens[row][place]] for place in answer]
        if any(letter is None and place not in masked for letter, place in zip(pattern, answer, strict=True)):
            return None
        return completions(pattern, alphabet.tokens, ends=alphabet.ends)

    def _grammar(self) -> Grammar:
        read = read_lark if self.config.notation == "lark" else read_grammar
        return read(self.config.grammar)

    def _alphabet(self, mask: int, count: int, grammar: Grammar, context: GenerationContext) -> _Alphabet:
        """Return the symbols of each token that the model scores.

        Args:
            mask: mask token, which has no symbols.
            count: number of tokens.
            grammar: provides the alphabet.
            context: provides the stop tokens and the tokenizer.

        Raises:
            FedsimError: no token spells symbols of the grammar.
        """
        assert context.limits is not None, "the unmasker has limits"
        known = count if context.tokenizer is None else context.tokenizer.vocabulary
        spells: list[tuple[str, ...] | None] = []
        for token in range(count):
            if token in context.limits.stop_tokens:
                spells.append(END)
            elif token == mask or token >= known:
                spells.append(None)
            else:
                spells.append(self._spell_token(token, grammar, context.tokenizer))
        tokens = {letters: token for token, letters in reversed(list(enumerate(spells))) if letters}
        if grammar.alphabet and not tokens:
            raise FedsimError(
                "grammar: none of its signs is a token of the model. Without a tokenizer tokens are numbers, as in "
                "S = 3 S | 4."
            )
        return _Alphabet(tuple(spells), tokens)

    def _spell_token(self, token: int, grammar: Grammar, tokenizer: Tokenizer | None) -> tuple[str, ...] | None:
        """Return representatives of a token's symbols; None if it can occur in no text of the grammar."""
        spell = (token_symbol(token),) if tokenizer is None else tuple(tokenizer.decode([token]))
        classes = representatives(grammar)
        return tuple(map(classes.__getitem__, spell)) if spell and set(spell) <= grammar.alphabet else None


@dataclass
class _Row:
    """A row during a step."""

    state: Constrained
    is_stuck: bool = False
    calls: int = 0
    completed_count: int = 0

    def __post_init__(self) -> None:
        self.new: dict[int, int] = {}
        self._before = self.state.rejection_counts[0]
        self._masked = len(self.state.masked_positions[0])

    def reject(self, place: int, token: int) -> None:
        """Rule a token out permanently: writing more positions only removes completions."""
        ruled_out, rejected = self.state.ruled_out[0] | {(place, token)}, self.state.rejection_counts[0] + 1
        self.state = replace(self.state, ruled_out=(ruled_out,), rejection_counts=(rejected,))

    def event(self, positions: int) -> Event:
        """Return the counts of the step."""
        return Event(
            unmasked=len(self.new),
            masked=self._masked,
            positions=positions,
            calls=self.calls,
            rejected=self.state.rejection_counts[0] - self._before,
            completed=self.completed_count,
        )
