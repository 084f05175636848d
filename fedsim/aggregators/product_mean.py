"""product-mean: averages the clients' low-rank changes B_k A_k, and truncates the mean to their rank.

Idea: The mean of factors is another matrix: mean(B) mean(A) also multiplies one client's B with another's A.
Equation: B A = best rank-r approximation of (sum over clients of n_k B_k A_k) / (sum of n_k), by the truncated singular
    value decomposition U S V^T of the stacked factors. A is V^T with the norm of the mean A_k, B the rest, so that an
    untrained direction keeps a nonzero row of A. All other tensors are averaged as by `mean`.
Assumes: adapters with two trained factors, and the server's default optimizer, whose steps are full.
Fails: with gradients, whose products are meaningless; not robust; it needs single updates.
Source: Eckart, Young 1936 (best approximation); no paper for the rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from fedsim.core.hooks import Aggregator, PublicFederation, ServerRound
from fedsim.core.registry import aggregator
from fedsim.core.types import Config, Contribution, Tensors

_A, _B = ".lora_a.weight", ".lora_b.weight"


class ProductMeanConfig(Config):
    """The product mean has no settings."""


@final
@aggregator("product-mean", summary="mean of low-rank adapters' products, cut to their rank", tier="research")
class ProductMean(Aggregator[ProductMeanConfig]):
    """Keeps a round's updates in memory. Like the mean, it is not robust."""

    needs_single_updates: ClassVar[bool] = True

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Refuse gradients, whose products are meaningless, and models without two trained factors."""
        if federation.algorithm == "fedsgd":
            return "the product of two gradients is not a change of weights. Set federation.algorithm = 'fedavg'"
        if not _pairs({name for name, p in model.named_parameters() if p.requires_grad}):
            return "the model trains no adapters with two factors. Use 'mean', which is exact where A is frozen"
        return None

    def combine(self, contributions: Iterable[Contribution], server_round: ServerRound) -> Tensor:
        """Return received minus new weights of adapters, and the mean of other tensors; 0 without examples."""
        known = list(contributions)
        counts = torch.tensor([reply.examples for reply in known], dtype=torch.float64)
        if not counts.sum():
            return torch.zeros_like(known[0].vector)
        shares = (counts / counts.sum()).tolist()
        mean = sum((reply.vector * share for reply, share in zip(known, shares, strict=True)), torch.zeros(()))
        if server_round.layout is None:
            return mean
        tensors, buffers = server_round.layout.unflatten(mean)
        parts = [server_round.layout.unflatten(reply.vector)[0] for reply in known]
        for name in _pairs(tensors.keys()):
            a, b = _mean_product(server_round.received_weights, parts, shares, name)
            tensors |= {
                name + _A: server_round.received_weights[name + _A] - a,
                name + _B: server_round.received_weights[name + _B] - b,
            }
        return server_round.layout.flat(tensors, buffers).to(mean.dtype)


def _pairs(names: Iterable[str]) -> list[str]:
    """Return the layers with both factors among the names."""
    known = set(names)
    return sorted(name.removesuffix(_B) for name in known if name.endswith(_B) and name.removesuffix(_B) + _A in known)


def _mean_product(
    received: Tensors, updates: Sequence[Tensors], shares: Sequence[float], name: str
) -> tuple[Tensor, Tensor]:
    """Return new A (r, in) and B (out, r) of a layer; B A is the product nearest to the clients' mean."""
    first_a, first_b = received[name + _A], received[name + _B]
    rows = [(first_a - update[name + _A]).double() for update in updates]
    columns = [(first_b - update[name + _B]).double() * share for update, share in zip(updates, shares, strict=True)]
    left, left_rest = torch.linalg.qr(torch.cat(columns, dim=1))
    right, right_rest = torch.linalg.qr(torch.cat(rows).T)
    u, values, v = torch.linalg.svd(left_rest @ right_rest.T, full_matrices=False)
    rank = len(first_a)
    mean = torch.stack([row * share for row, share in zip(rows, shares, strict=True)]).sum(0)
    length = float(mean.norm()) / rank**0.5 or 1.0
    a = length * v[:rank] @ right.T
    b = left @ u[:, :rank] * values[:rank] / length
    return a.to(first_a), b.to(first_b)
