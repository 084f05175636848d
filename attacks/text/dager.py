"""dager: read whole sentences off the attention gradients of a language model's first two blocks, without descent.

Idea: gradients of queries, keys and values span the attention's inputs. In the first block an input depends on the
    token (and its position), in the second on the whole prefix: prefixes grow token by token while they lie in the
    span.
Equation: dL/dW_q = sum_t dL/dq_t x_t^T, so x_t is in its row space. The same holds for dL/dA = s B^T dL/dy^T x^T of
    LoRA; in the first update, where B = 0, dL/dB = s dL/dy (A x)^T has A x in its row space.
Assumes: honest-but-curious server, one update by SGD, fewer tokens in the batch than the model is wide. Several steps
    are inverted one after the other; under noise, added or of 16 bits, spans are soft and all blocks are used.
Recovers: exact sentences, with repetitions if the output layer shows them; under early dropout only words.
Fails: as many tokens as the width (or LoRA rows); dropout in the first block; strong noise. With bidirectional
    attention, arrangements of the tokens are found by local search, which may miss some sentences of a batch.
Source: Petrov, Dimitrov, Baader, Mueller, Vechev 2024, arXiv 2405.15586, sections 4.1 to 4.3 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.attention import attentions, fewer_than
from attacks.core.outlooks import outlook_of
from attacks.core.preconditions import gradient_steps_only
from attacks.core.results import NothingFound, no_guess
from attacks.text._arrangements import arrange
from attacks.text._examples import TAGS
from attacks.text._masked_tokens import kept_shares, only_scales
from attacks.text._multiplicities import multiplicities
from attacks.text._prefixes import drops_in_front
from attacks.text._read_spans import behind_fresh, examples_of, levels_of, read_spans
from attacks.text._span_search import ScoredSentence, SpanReading, best, read_sentences
from attacks.text._step_by_step import behind_first_step, can_go_on
from attacks.text._subspaces import gradients_of, rank
from attacks.text._words import embedding_of, pad_to_rows
from fedsim.core.hooks import Attack, CostEstimate, Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Config, Modality, Observation, OnStep, Reconstruction, Step

_TWO = 2
_MOST_SOLVED = 5000  # largest vocabulary, since each token needs a linear program


class DagerConfig(Config):
    """Settings of DAGER."""

    tolerance: float = Field(
        default=5e-4,
        gt=0,
        lt=1,
        description="an input counts as read if less than this share of its length is outside the span",
    )
    drift_tolerance: float = Field(default=5e-3, gt=0, lt=1, description="the same share after several local steps")
    deviations: float = Field(
        default=5.0, gt=0, description="under noise: deviations by which a token that was read is below the others"
    )
    prefixes: int = Field(
        default=2000, ge=1, description="maximum number of prefixes of equal length; the attack gives up beyond"
    )
    tries: int = Field(
        default=100, ge=1, description="if the model looks ahead: descents in search of each sentence of a length"
    )


@final
@attack(
    "dager",
    summary="exact sentences from the spans of two attention gradients",
    tier="core",
    paper="2405.15586",
    fidelity="reproduction",
    paper_steps=(
        ("span of the attention gradients by numerical rank", "attacks.text._subspaces.hard"),
        ("tokens whose embeddings lie in the first span", "attacks.text._span_search.SpanReading.tokens"),
        ("decoders: prefixes grow inside the second span", "attacks.text._span_search.grow_prefixes"),
        ("encoders: sentences of these tokens that lie in the second span", "attacks.text._arrangements.arrange"),
        ("low-rank adapters: span of the gradient of A", "attacks.text._subspaces.gradients_of"),
        ("updates of several local steps", "Dager._step_by_step"),
    ),
)
class Dager(Attack[DagerConfig]):
    """Infers tokens from the first span, then grows prefixes in the second."""

    effort: ClassVar[Effort] = "algebra"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})
    example: ClassVar[Tables] = TAGS

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse unknown attentions, gradients that are hidden, zero or of full rank, and early dropout."""
        if reason := fewer_than(_TWO, observation.model):
            return reason
        layers = attentions(observation.model)[:_TWO]
        if _rate_in_front(observation) and not _names_words(observation, layers[0]):
            return "dropout changes the layers' inputs, and the span test needs them unchanged"
        reasons = (_uninformative(observation, layer) for layer in layers)
        return gradient_steps_only(observation) or next(filter(None, reasons), None)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect forward passes on prefixes."""
        return outlook_of(observation, 7.0, 0.8, "two spans show whole sentences")

    @torch.no_grad()
    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Return the recovered sentences; if the number of examples is known, at most that many."""
        try:
            return self._read(observation, generator, on_step)
        except NothingFound as reason:
            return no_guess(observation, str(reason))

    def _read(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Return the sentences.

        Raises:
            NothingFound: no token lies in the span, or too many sequences do.
        """
        is_one = observation.local_steps == 1
        reading = self._reading(observation, self.config.tolerance if is_one else self.config.drift_tolerance)
        if rate := _rate_in_front(observation):
            return _words(observation, reading, rate, on_step)
        if reading.front.looks_ahead():
            tokens, examples = reading.tokens(observation.spec), examples_of(observation)
            in_span = arrange(reading, tokens, observation.spec, examples, self.config.tries, generator, on_step)
        else:
            tokens, in_span = read_sentences(reading, observation.spec, on_step)
        sentences = _repeat_sentences(observation, reading, in_span)
        if not is_one and not reading.front.looks_ahead():
            sentences = max(self._step_by_step(observation, on_step), sentences, key=len)
        return Reconstruction.of(
            inputs=_pad(sentences, observation.spec.shape[0]),
            objective=0.0,
            iterations=1,
            stop_reason="read off two spans",
            notes=_remarks(len(in_span), len(sentences), examples_of(observation)),
            diagnostics={
                "rank of the first span": reading.spaces[0].size,
                "rank of the second span": reading.spaces[1].size,
                "noise of the second span": reading.spaces[1].noise,
                "tokens in the span": float(len(torch.cat(tokens).unique())),
                "sentences in the span": float(len(in_span)),
                reading.test.figure: max(sentence.score for sentence in sentences),
            },
        )

    def _step_by_step(self, observation: Observation, on_step: OnStep) -> list[ScoredSentence]:
        """Return the sentences of the first steps, each at its own weights, until a step is not fully recovered."""
        sentences: list[ScoredSentence] = []
        for size in observation.batch_sizes or ():
            reading = self._reading(observation, self.config.tolerance)
            try:
                _, in_span = read_sentences(reading, observation.spec, on_step)
            except NothingFound:
                return sentences
            if len(in_span) < size:
                return sentences
            in_span = best(in_span, size, reading.test.overlap)
            sentences += in_span
            if not can_go_on(observation):
                return sentences
            observation = behind_first_step(observation, _pad(in_span, observation.spec.shape[0]))
        return sentences

    def _reading(self, observation: Observation, tolerance: float) -> SpanReading:
        return read_spans(observation, tolerance, self.config.deviations, self.config.prefixes)


def _rate_in_front(observation: Observation) -> float:
    """Return the largest dropout rate before the second attention."""
    model, layer = observation.model, attentions(observation.model)[1]
    return max((site.rate for site in observation.sites if drops_in_front(model, site, layer)), default=0.0)


def _names_words(observation: Observation, layer: str) -> bool:
    """Return whether the first span reveals the words despite dropout, and the embedding's gradient does not."""
    name, embedding = embedding_of(observation)
    is_known = f"{name}.weight" in observation.update.tensors or embedding.num_embeddings > _MOST_SOLVED
    return not is_known and observation.local_steps == 1 and only_scales(observation.model, layer)


def _words(observation: Observation, reading: SpanReading, rate: float, on_step: OnStep) -> Reconstruction:
    """Return the tokens that lie in the first span under some dropout mask, in rows without an order.

    Raises:
        NothingFound: no token lies in the span.
    """
    vocabulary = torch.arange(observation.spec.vocabulary or 0)
    shares = kept_shares(reading.spaces[0], reading.front.read_first(vocabulary[:, None])[:, 0])
    tokens = vocabulary[shares > (1.0 - rate) / 2]
    if not len(tokens):
        raise NothingFound("no token's embedding lies in the span of the first attention gradient under any mask")
    guess = pad_to_rows(tokens, observation)
    on_step(Step(0, 1, 1, 0.0, 0.0, guess))
    diagnostics = {"rank of the first span": reading.spaces[0].size, "tokens in the span": float(len(tokens)),
             "least share of a token that was kept": float(shares[tokens].min())}  # fmt: skip
    notes = ("dropout in front of the second attention hides the order: these are the words of the batch, each once",)
    return Reconstruction.of(
        guess, objective=0.0, iterations=1, stop_reason="read off one span", notes=notes, diagnostics=diagnostics
    )


def _repeat_sentences(
    observation: Observation, reading: SpanReading, in_span: list[ScoredSentence]
) -> list[ScoredSentence]:
    """Return the sentences with their multiplicity in the batch; if it is unknown, the best sentences once."""
    counts = None
    if not reading.front.looks_ahead():
        counts = multiplicities(observation, [sentence.tokens for sentence in in_span])
    if counts is None:
        return best(in_span, examples_of(observation) or len(in_span), reading.test.overlap)
    worst = max(sentence.score for sentence in in_span)
    return [ScoredSentence(tokens, worst) for tokens, count in counts.items() for _ in range(count)]


def _pad(sentences: Sequence[ScoredSentence], length: int) -> Tensor:
    rows = torch.full((len(sentences), length), -1)
    for row, sentence in zip(rows, sentences, strict=True):
        row[: len(sentence.tokens)] = torch.tensor(sentence.tokens)
    return rows


def _uninformative(observation: Observation, layer: str) -> str | None:
    """Return why the gradients of an attention do not reveal its inputs, or None."""
    place, gradients = layer.rpartition(".")[0], gradients_of(observation, layer)
    if not gradients:
        return f"no gradient of queries, keys or values of '{place}' is shared"
    if not any(bool(gradient.any()) for gradient in gradients.values()):
        if behind_fresh(observation, layer) is not None and not _rate_in_front(observation):
            return None
        return (
            f"the gradients of '{place}' are zero, as with fresh adapters until the second update, and the "
            "other adapter gradients are not usable: the attack needs more adapter rows than tokens in the "
            "batch, and no dropout"
        )
    read = rank(gradients, levels_of(observation, gradients))
    rows, width = sum(len(gradient) for gradient in gradients.values()), next(iter(gradients.values())).shape[1]
    if read == min(rows, width):
        return f"the gradients of '{place}' have full rank {read}: too many tokens, or noise"
    return None


def _remarks(count: int, kept: int, examples: int | None) -> tuple[str, ...]:
    if examples is None or count == examples or count < kept == examples:
        return ()
    if count > examples:
        return (f"{count} sentences lie in the span; the {examples} best were returned",)
    return (f"{count} sentences were found for {examples} examples: some are beginnings of others, or repeats",)
