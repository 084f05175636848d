"""DAGER: whole sentences from the attention gradients of a language model's first two blocks, without descending.

The gradient of a query weight is sum_t dL/dq_t x_t^T, and those of keys and values alike, so their rows span what the
attention read, x_t, as long as there are fewer of these than it is wide. The first token's query has no gradient, as it
sees itself alone; its value has, so the three are taken together. In the first block x_t depends on the token alone:
tokens whose x lies in the span were there. In the second it depends on the whole prefix: prefixes grow token by token,
and those stay whose last x lies in the span. A model that looks ahead has no prefixes: there all arrangements of the
tokens are tried, which only few and short sentences allow. Of a LoRA layer, the rows of dL/dA = s B^T dL/dy^T x^T do
what those of the weight's gradient did, once B is no longer zero and unless there are more tokens than rows.
Paper: Petrov, Dimitrov, Baader, Mueller, Vechev 2024, arXiv 2405.15586, sections 4.1 to 4.3.

Threat model: honest-but-curious server, one gradient, no active dropout in front of the second attention (behind it
dropout changes no span), and fewer tokens in the batch than the model is wide. A sentence that is the beginning of
another one in the batch, or a repeat, is not told apart from it.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from attacks._matching import one_gradient_only
from attacks._prefixes import Front, attentions, drops_in_front, shared_gradients, span
from fedsim.errors import NotApplicable
from fedsim.hooks import Attack, Effort
from fedsim.registry import attack
from fedsim.types import Config, InputSpec, Modality, Observation, OnStep, Reconstruction, Step

_SCANNED = 4096  # tokens whose inputs are computed at once
_TRIED = 1024  # sequences at once


class DagerConfig(Config):
    """Settings of DAGER."""

    tolerance: float = Field(
        default=5e-4, gt=0, lt=1, description="share of an input's length outside the span below which it was there"
    )
    prefixes: int = Field(default=2000, ge=1, description="most prefixes of one length; beyond that it gives up")
    arrangements: int = Field(
        default=1_000_000, ge=1, description="of a model that looks ahead: most arrangements of tokens that are tried"
    )


class _Found(NamedTuple):
    """A sequence of tokens, and the largest share of one of its inputs that is outside the span."""

    tokens: tuple[int, ...]
    outside: float


@final
@attack("dager", summary="exact sentences from the spans of two attention gradients", paper="2405.15586")
class Dager(Attack[DagerConfig]):
    """Reads the tokens, then grows prefixes."""

    effort: ClassVar[Effort] = "algebra"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse models of other names, gradients that are not shared, zero or span everything, and dropout."""
        places = attentions(observation.model)
        if places is None:
            return "the model has no two blocks 'layers.0.self_attn.q_proj' and 'layers.1.self_attn.q_proj'"
        if any(drops_in_front(observation.model, site, places[1]) for site in observation.sites):
            return "dropout changes what the layers read, and the span test wants it as it was"
        for place in places:
            reason = _uninformative(observation, place)
            if reason is not None:
                return reason
        return one_gradient_only(observation)

    @torch.no_grad()
    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Return the sentences, as many as there are examples if that is known, and at most those that were found.

        Raises:
            NotApplicable: no token lies in the span, or too many sequences do.
        """
        places = attentions(observation.model)
        assert places is not None
        front = Front(observation.model, places)
        first, second = (span(shared_gradients(observation, place)).float() for place in places)
        tokens = self._tokens(front, first, observation.spec.vocabulary or 0)
        length = observation.spec.shape[0]
        if front.looks_ahead(torch.tensor([0, 1])):
            found = self._arranged(front, second, tokens, observation.spec, on_step)
        else:
            found = self._grown(front, second, tokens, length, on_step)
        sentences = sorted(found, key=lambda own: own.outside)[: observation.batch_size]
        guess = torch.full((len(sentences), length), -1)
        for row, sentence in zip(guess, sentences, strict=True):
            row[: len(sentence.tokens)] = torch.tensor(sentence.tokens)
        facts = {
            "rank of the first span": float(len(first)),
            "rank of the second span": float(len(second)),
            "tokens in the span": float(len(tokens)),
            "sentences in the span": float(len(found)),
            "most of an input outside the span": max(own.outside for own in sentences),
        }
        return Reconstruction(
            inputs=guess,
            labels=torch.zeros(len(guess), dtype=torch.long),
            masks=None,
            objective=0.0,
            iterations=1,
            best_iteration=1,
            history=((1, 0.0),),
            stopped="read off two spans",
            notes=_remarks(len(found), observation.batch_size),
            facts=facts,
        )

    def _tokens(self, front: Front, first: Tensor, vocabulary: int) -> Tensor:
        """Return the tokens whose input of the first attention lies in the span, shape (M,)."""
        every = torch.arange(vocabulary)
        outside = torch.cat([_outside(front.read_first(part), first) for part in every.split(_SCANNED)])
        tokens = every[outside < self.config.tolerance]
        if not len(tokens):
            raise NotApplicable("no token's embedding lies in the span of the first attention gradient")
        return tokens

    def _grown(self, front: Front, second: Tensor, tokens: Tensor, length: int, on_step: OnStep) -> list[_Found]:
        """Return the prefixes that lie in the span and cannot be continued."""
        prefixes, worst = torch.empty(1, 0, dtype=torch.long), torch.zeros(1)
        ended: list[_Found] = []
        for position in range(length):
            if len(prefixes) > self.config.prefixes:
                raise NotApplicable(
                    f"{len(prefixes)} prefixes of {position} tokens lie in the span: it tells too little"
                )
            longer = torch.cat((prefixes.repeat_interleave(len(tokens), 0), tokens.repeat(len(prefixes))[:, None]), 1)
            outside = torch.cat([_outside(front.read_last(part), second) for part in longer.split(_TRIED)])
            stays = outside < self.config.tolerance
            goes_on = stays.view(-1, len(tokens)).any(1)
            ended += _listed(prefixes[~goes_on], worst[~goes_on])
            worst = torch.maximum(outside, worst.repeat_interleave(len(tokens)))[stays]
            prefixes = longer[stays]
            on_step(Step(0, position + 1, length, 0.0, 0.0, prefixes))
            if not len(prefixes):
                break
        return _longest(ended + _listed(prefixes, worst))

    def _arranged(self, front: Front, second: Tensor, tokens: Tensor, spec: InputSpec, on_step: OnStep) -> list[_Found]:
        """Return the arrangements of which every input lies in the span, of each length that padding may fill up."""
        (longest,) = spec.shape
        lengths = range(longest if spec.padding is None else 1, longest + 1)
        if sum(len(tokens) ** length for length in lengths) > self.config.arrangements:
            raise NotApplicable(
                f"the model looks ahead, and {len(tokens)} tokens in {longest} places have more arrangements than "
                f"{self.config.arrangements}"
            )
        found: list[_Found] = []
        for length in lengths:
            every = torch.cartesian_prod(*[tokens] * length).view(-1, length)
            filled = F.pad(every, (0, longest - length), value=spec.padding or 0)
            read = (front.read_all(part)[:, :length] for part in filled.split(_TRIED))
            outside = torch.cat([_outside(own, second).amax(1) for own in read])
            stays = outside < self.config.tolerance
            on_step(Step(0, length, longest, 0.0, 0.0, every[stays]))
            found += _listed(every[stays], outside[stays])
        if not found:
            raise NotApplicable("the model looks ahead, and no arrangement of the tokens lies in the span")
        return found


def _uninformative(observation: Observation, place: str) -> str | None:
    """Say why the gradients of an attention module do not tell what it read."""
    gradients = shared_gradients(observation, place)
    if not gradients:
        return f"no gradient of queries, keys or values of '{place}' is shared"
    if not any(bool(own.any()) for own in gradients.values()):
        return f"the gradients of '{place}' are zero: those of fresh adapters are, until the second update"
    rows, width = sum(len(own) for own in gradients.values()), next(iter(gradients.values())).shape[1]
    rank = len(span(gradients))
    if rank == min(rows, width):
        return f"the gradients of '{place}' have full rank {rank}: too many tokens, or noise"
    return None


def _outside(inputs: Tensor, basis: Tensor) -> Tensor:
    """Return which share of each input's length is outside the span of a basis."""
    return (inputs - inputs @ basis.T @ basis).norm(dim=-1) / inputs.norm(dim=-1)


def _listed(sequences: Tensor, outside: Tensor) -> list[_Found]:
    return [_Found(tuple(own), share) for own, share in zip(sequences.tolist(), outside.tolist(), strict=True)]


def _longest(found: list[_Found]) -> list[_Found]:
    """Return sequences that are no beginnings of others.

    Attention over one token again and again reads what it reads over one, so that repeats of a sentence's first token
    lie in the span, however many: they count as that token.
    """
    once = {(own.tokens[:1] if len(set(own.tokens)) == 1 else own.tokens): own.outside for own in found}
    beginnings = {tokens[:end] for tokens in once for end in range(len(tokens))}
    return [_Found(tokens, outside) for tokens, outside in once.items() if tokens not in beginnings]


def _remarks(found: int, batch_size: int | None) -> tuple[str, ...]:
    if batch_size is None or found == batch_size:
        return ()
    if found > batch_size:
        return (f"{found} sentences lie in the span; the {batch_size} that lie in it best were taken",)
    return (f"{found} sentences were found for {batch_size} examples: some are beginnings of others, or repeats",)
