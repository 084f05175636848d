"""masked-spans: recover whole texts, masked tokens and rates from one gradient of a masked language model.

Idea: the first span of attention inputs reveals the token at each position, the mask token included. The second span
    reveals which visible tokens belong together. Then the output layer's inputs are known, and its gradient, a sum of
    products with them, is solved for the token at each masked position and its weight.
Equation: dL/dW = sum_i w_i (softmax(z_i) - e_(y_i)) h_i^T over masked positions i, w_i = 1 / (B n p): least squares
    in h.
Assumes: honest-but-curious server, a single gradient or step of SGD; tokens have positions; fewer tokens than the
    width.
Recovers: visible and masked tokens at their positions, and each text's rate p, up to rounding.
Fails: dropout, noise, a full span; sentences without a masked token, since these have no gradient; many sentences.
Source: spans after Petrov et al. 2024, arXiv 2405.15586; places, arrangement and output layer are derived here.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.mean_gradient import gradient_weight
from attacks.core.outlooks import outlook_of
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import NothingFound, no_guess
from attacks.text._arrangements import arrange_tokens
from attacks.text._examples import MASKED
from attacks.text._masked_places import has_no_spans, spans_with_masks
from fedsim.core.hooks import Attack, CostEstimate, Effort, Tables
from fedsim.core.nets.layer_calls import layer_inputs
from fedsim.core.nets.masked_positions import mask_token
from fedsim.core.nets.output_layer import output_layer
from fedsim.core.registry import attack
from fedsim.core.types import Config, Modality, Observation, OnStep, Reconstruction, Step

_DECIMALS = 12  # of the residual share; further decimals depend on the memory alignment of tensors
_EXPLAINED = 1e-3  # residual share of the output layer's gradient; single precision leaves about 1e-5


class MaskedSpansConfig(Config):
    """Settings of masked spans."""

    tolerance: float = Field(
        default=5e-4, gt=0, lt=1, description="an input counts as read if less than this share of it is outside a span"
    )
    deviations: float = Field(
        default=5.0, gt=0, description="under noise: deviations by which a token that was read is below the others"
    )
    tries: int = Field(default=20, ge=1, description="descents in search of each sentence of a batch")


class _Filled(NamedTuple):
    """Sentences with their masked tokens (B, T), their weights in the loss (B,), and the residual share."""

    tokens: Tensor
    weights: Tensor
    residual_share: float


@final
@attack("masked-spans", summary="texts with their masked tokens and rates, from spans and a linear system", tier="core")
class MaskedSpans(Attack[MaskedSpansConfig]):
    """Recovers visible tokens from spans, and masked tokens from the output layer."""

    effort: ClassVar[Effort] = "search"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})
    example: ClassVar[Tables] = MASKED

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse models without a mask token or two attentions, early dropout, and full or hidden spans."""
        if mask_token(observation.model) is None:
            return "the model has no mask token: it does not fill in masked places"
        return has_no_spans(observation) or one_gradient_only(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect forward passes on arrangements of the tokens."""
        return outlook_of(observation, 6.0, 0.75, "two spans and the output layer show whole texts")

    @torch.no_grad()
    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Return the sentences that have a masked position; unknown masked tokens are -1."""
        try:
            return self._read(observation, generator, on_step)
        except NothingFound as reason:
            return no_guess(observation, str(reason))

    def _read(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Return the sentences.

        Raises:
            NothingFound: a position has no token in the first span, or no arrangement lies in the second.
        """
        mask = mask_token(observation.model)
        assert mask is not None, "checked before"
        reading, tokens = spans_with_masks(observation, self.config.tolerance, self.config.deviations)
        seen = arrange_tokens(reading, tokens, observation.batch_size or 1, self.config.tries, generator)
        filled = _fill_in(observation, seen, mask)
        on_step(Step(0, 1, 1, filled.residual_share, filled.residual_share, filled.tokens))
        diagnostics = {
            "rank of the first span": reading.spaces[0].size,
            "masked tokens": float((seen == mask).sum()),
            "share of the output layer's gradient left": filled.residual_share,
        }
        sentences = observation.batch_size or len(seen)
        for number, weight in enumerate(filled.weights.tolist(), 1):
            if weight > 0:
                diagnostics[f"masking rate of sentence {number}"] = 1 / (sentences * seen.shape[1] * weight)
        return Reconstruction.of(
            inputs=filled.tokens,
            objective=filled.residual_share,
            iterations=1,
            stop_reason="read off two spans and the output layer",
            notes=("rates assume texts in which every position may be masked",),
            diagnostics=diagnostics,
            is_exact=filled.residual_share < _EXPLAINED,
        )


def _fill_in(observation: Observation, seen: Tensor, mask: int) -> _Filled:
    """Solve the output layer's gradient for the tokens at masked positions; undetermined tokens stay -1.

    Args:
        observation: a single gradient.
        seen: the model's input, (B, T), with the mask token at masked positions.
        mask: the mask token.
    """
    masked, zeros = seen == mask, torch.zeros(len(seen), dtype=torch.double)
    layer = output_layer(observation.model, observation.spec.classes)
    gradient = observation.update.tensors.get(f"{layer[0]}.weight") if layer is not None else None
    if layer is None or gradient is None or int(masked.sum()) > layer[1].in_features:
        return _Filled(seen.masked_fill(masked, -1), zeros, 1.0)
    with layer_inputs(observation.model, [layer[0]]) as read:
        odds = observation.model(seen)[masked].double().softmax(-1)
    hidden = read[0][1][masked].double()
    target = gradient.double() / gradient_weight(observation)
    parts = torch.linalg.lstsq(hidden.T, target.T).solution  # (places, V): w_i (softmax_i - one-hot)
    tokens = parts.argmin(1)
    indices = torch.arange(len(tokens))
    weights = -parts[indices, tokens] / (1 - odds[indices, tokens]).clamp_min(torch.finfo(torch.double).tiny)
    odds[indices, tokens] -= 1
    residual = round(float((target - (weights[:, None] * odds).T @ hidden).norm() / target.norm()), _DECIMALS)
    filled = seen.clone()
    filled[masked] = tokens
    rows = masked.nonzero()[:, 0]
    total = zeros.index_add(0, rows, weights)
    return _Filled(filled, total / masked.sum(1).clamp_min(1), residual)
