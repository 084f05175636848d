"""DAGER: whole sentences from the attention gradients of a causal language model's first two blocks, without a search.

The gradient of a query weight is sum_t dL/dq_t x_t^T, and those of keys and values alike, so their rows span what the
attention read, x_t, as long as there are fewer of these than it is wide. The first token's query has no gradient, as it
sees itself alone; its value has, so the three are taken together. In the first block x_t depends on the token alone:
tokens whose x lies in the span were there. In the second it depends on the whole prefix: prefixes grow token by token,
and those stay whose last x lies in the span.
Paper: Petrov, Dimitrov, Baader, Mueller, Vechev 2024, arXiv 2405.15586, sections 4.1 to 4.3, decoder case.

Threat model: honest-but-curious server, one gradient, no active dropout, and fewer tokens in the batch than the model
is wide. A sentence that is the beginning of another one in the batch is not told apart from it.
"""

from __future__ import annotations

import copy
from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from attacks._matching import one_gradient_only
from fedsim.errors import NotApplicable
from fedsim.hooks import Attack, Effort
from fedsim.registry import attack
from fedsim.types import Config, Modality, Observation, OnStep, Reconstruction, Step

_QUERIES = ("layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj")


class DagerConfig(Config):
    """Settings of DAGER."""

    tolerance: float = Field(
        default=1e-4, gt=0, lt=1, description="share of an input's length outside the span below which it was there"
    )
    prefixes: int = Field(default=2000, ge=1, description="most prefixes of one length; beyond that it gives up")


@final
@attack("dager", summary="exact sentences from the spans of two attention gradients", paper="2405.15586")
class Dager(Attack[DagerConfig]):
    """Reads the tokens, then grows prefixes."""

    effort: ClassVar[Effort] = "algebra"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse other models than tiny Llamas, gradients that are not shared or span everything, and dropout."""
        modules = dict(observation.model.named_modules())
        if not all(isinstance(modules.get(name), nn.Linear) for name in _QUERIES):
            return f"the model has no linear layers '{_QUERIES[0]}' and '{_QUERIES[1]}' in front of it"
        missing = [name for name in _QUERIES if f"{name}.weight" not in observation.update.tensors]
        if missing:
            return f"the gradient of '{missing[0]}' is not shared"
        if any(site.rate for site in observation.sites):
            return "dropout changes what the layers read, and the span test wants it as it was"
        for name in _QUERIES:
            span = _span(observation, name)
            if len(span) == span.shape[1]:
                return f"the gradient of '{name}' has full rank {len(span)}: too many tokens, or noise"
        return one_gradient_only(observation)

    @torch.no_grad()
    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Return the sentences that cannot be continued.

        Raises:
            NotApplicable: no token lies in the span, or too many prefixes do.
        """
        model = copy.deepcopy(observation.model).double().eval()
        first, second = (_span(observation, name) for name in _QUERIES)
        vocabulary = torch.arange(observation.spec.vocabulary or 0)
        tokens = vocabulary[self._inside(_read(model, vocabulary[:, None], _QUERIES[0]), first)]
        if not len(tokens):
            raise NotApplicable("no token's embedding lies in the span of the first attention gradient")
        length, finished = observation.spec.shape[0], list[Tensor]()
        prefixes = torch.empty(1, 0, dtype=torch.long)
        for position in range(length):
            grown = torch.cat((prefixes.repeat_interleave(len(tokens), 0), tokens.repeat(len(prefixes))[:, None]), 1)
            if len(grown) > self.config.prefixes * len(tokens):
                raise NotApplicable(
                    f"{len(prefixes)} prefixes of {position} tokens lie in the span: it tells too little"
                )
            kept = torch.cat([self._inside(_read(model, part, _QUERIES[1]), second) for part in grown.split(1024)])
            goes_on = kept.view(len(prefixes), len(tokens)).any(1)
            finished += list(prefixes[~goes_on])
            prefixes = grown[kept]
            on_step(Step(0, position + 1, length, 0.0, 0.0, prefixes))
            if not len(prefixes):
                break
        finished += list(prefixes)
        guess = torch.full((len(finished), length), -1)
        for row, sentence in zip(guess, finished, strict=True):
            row[: len(sentence)] = sentence
        facts = {"rank of the first span": float(len(first)), "rank of the second span": float(len(second)),
                 "tokens in the span": float(len(tokens))}  # fmt: skip
        none = torch.zeros(len(guess), dtype=torch.long)
        return Reconstruction(guess, none, None, 0.0, 1, 1, ((1, 0.0),), "read off two spans", facts=facts)

    def _inside(self, inputs: Tensor, span: Tensor) -> Tensor:
        outside = inputs - inputs @ span.T @ span
        return outside.norm(dim=-1) < self.config.tolerance * inputs.norm(dim=-1)


def _span(observation: Observation, name: str) -> Tensor:
    """Return an orthonormal basis (rank, width) of the rows of a layer's gradient, up to single precision."""
    places = [name.replace("q_proj", own) + ".weight" for own in ("q_proj", "k_proj", "v_proj")]
    shared = [observation.update.tensors[place].double() for place in places if place in observation.update.tensors]
    gradient = torch.cat([own / own.norm().clamp_min(1e-30) for own in shared])  # of values they are far larger
    _, values, rows = torch.linalg.svd(gradient, full_matrices=False)
    return rows[values > values[0] * max(gradient.shape) * torch.finfo(torch.float32).eps]


def _read(model: nn.Module, tokens: Tensor, name: str) -> Tensor:
    """Return what a layer reads at the last of tokens (N, t), shape (N, width)."""
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0][:, -1]))
    try:
        model(tokens)
    finally:
        handle.remove()
    return seen[0]
