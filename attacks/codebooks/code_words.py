"""code-words: infer the vocabulary tokens that a batch may contain from the used codes of a codebook.

The server can compute S(t) before it sees any update. No token of the batch is missed if every active row is recovered.
`word-readout` and `dager` find order and counts too, from more of the gradient.

Idea: before the first attention layer, or on its values, the codes S(t) of a position depend only on its token t. The
    server computes S(t) of every token with the model, and keeps the tokens with only used codes.
Equation: {t : S(t) is a subset of the used codes}; the used codes are the nonzero rows of the codebook's gradient.
Assumes: honest-but-curious server, a gradient in which the codebook's rows are shared.
Recovers: a superset of the batch's tokens. A token is certain if one of its codes was used and belongs to no other
    token of the set. Neither order nor counts.
Fails: codebooks behind an attention layer; dropout in front of the codebook; few codes that many tokens share; several
    local steps.
Source: codebook features: arXiv 2310.17230; the lookup is this project's, earlier work was not searched for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from attacks.codebooks._codes import code_gradients, why_no_codes
from attacks.core.fired_rows import find_fired_rows
from attacks.core.outlooks import outlook_of
from attacks.text._words import pad_to_rows
from fedsim.components.bottleneck.codebook import reading
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack, CostEstimate, Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Config, Modality, Observation, OnStep, Reconstruction, Step

_AT_ONCE = 512
_PROBES = 4


@final
@attack(
    "code-words", summary="the set of a batch's words, from the codes that fired", tier="research", related="2310.17230"
)
class CodeWords(Attack[Config]):
    """Tests every token of the vocabulary against the used codes."""

    effort: ClassVar[Effort] = "algebra"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})
    example: ClassVar[Tables] = {
        "data": {"name": "list-operations", "train": 40, "test": 10},
        "task": "next-token",
        "model": {"name": "tiny-llama", "width": 32, "hidden": 32},
        "components": [
            {"name": "codebook", "at": ["layers.0.self_attn.v_proj"], "codes": 40, "active": 2, "loss": "base"}
        ],
        "threat": {"knows": ["batch-size", "dropout-rates"]},
    }

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse models without a codebook, updates without a codebook's gradient, and several local steps."""
        return why_no_codes(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect forward passes on the vocabulary, and no exact answer."""
        return outlook_of(observation, 3.0, 0.011, "the result is words without their order")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Return the tokens with only used codes, in rows of sentence length. The order of tokens is not recovered.

        Raises:
            NotApplicable: at every shared codebook, codes depend on more than the token.
        """
        fired = {place: find_fired_rows(gradient) for place, gradient in code_gradients(observation).items()}
        table = token_codes(observation, generator)
        table = {place: codes for place, codes in table.items() if place in fired}
        if not table:
            raise NotApplicable(
                "at every codebook that is shared, codes depend on more than their token: on tokens before it, or on "
                "dropout"
            )
        possible = _possible(table, fired)
        if observation.spec.padding is not None:
            possible = possible[possible != observation.spec.padding]
        guess = pad_to_rows(possible, observation)
        on_step(Step(0, 1, 1, 0.0, 0.0, guess))
        diagnostics = {
            "tokens with all their codes active": float(len(possible)),
            "tokens that alone explain a code": float(_certain(table, possible)),
            **{f"codes read at '{place}'": float(rows.sum()) for place, rows in fired.items()},
        }
        notes = ("the order of the tokens is not known: rows are not sentences",)
        readings = {f"codebook.{place}": rows for place, rows in fired.items()}
        return Reconstruction.of(
            guess,
            objective=0.0,
            iterations=1,
            stop_reason="codes looked up",
            notes=notes,
            diagnostics=diagnostics,
            extras=readings,
        )


@torch.no_grad()
def token_codes(observation: Observation, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the codes of every token (V, groups, k) at each codebook whose codes depend on the token only.

    The dependence is tested on random sentences, with the model's dropout.
    """
    model, vocabulary = observation.working_copy(), observation.spec.vocabulary or 0
    single_codes = [_codes(model.eval(), part[:, None]) for part in torch.arange(vocabulary).split(_AT_ONCE)]
    table = {place: torch.cat([part[place][:, 0] for part in single_codes]) for place in single_codes[0]}
    probes = torch.randint(vocabulary, (_PROBES, *observation.spec.shape), generator=generator)
    with seeding.isolate_randomness(int(torch.randint(1 << 62, (), generator=generator))):
        seen = _codes(model.train(), probes)
    return {place: codes for place, codes in table.items() if torch.equal(codes[probes], seen[place])}


def _codes(model: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    """Return the codes (B, T, groups, k) of each codebook that is called on one position per token."""
    with reading(model) as seen:
        model(tokens)
    return {place: calls[0] for place, calls in seen.items() if calls and calls[0].shape[:-2] == tokens.shape}


def _possible(table: Mapping[str, Tensor], fired: Mapping[str, Tensor]) -> Tensor:
    """Return the tokens with only used codes, ascending."""
    fits = [_look_up(fired[place], codes).flatten(1).all(1) for place, codes in table.items()]
    return torch.stack(fits).all(0).nonzero()[:, 0]


def _certain(table: Mapping[str, Tensor], possible: Tensor) -> int:
    """Return the number of possible tokens with a code that no other possible token has."""
    is_certain = torch.zeros(len(possible), dtype=torch.bool)
    for codes in table.values():
        chosen = codes[possible]
        counts = torch.zeros(chosen.shape[1], int(codes.max()) + 1, dtype=torch.long)
        for group in range(chosen.shape[1]):
            counts[group] = torch.bincount(chosen[:, group].flatten(), minlength=counts.shape[1])
        is_certain |= (_look_up(counts, chosen) == 1).flatten(1).any(1)
    return int(is_certain.sum())


def _look_up(values: Tensor, codes: Tensor) -> Tensor:
    """Return the value (groups, C) of every code (N, groups, k), shape (N, groups, k)."""
    return values[torch.arange(codes.shape[1])[:, None], codes]
