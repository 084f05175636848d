"""Product mean: the mean of the clients' low-rank changes B_k A_k, as the nearest change of the same rank.

    B A = best rank-r approximation of (sum over clients of n_k B_k A_k) / (sum of n_k)

The mean of factors is another matrix: mean(B) mean(A) also multiplies one client's B with another's A. The best
approximation is the truncated singular value decomposition (Eckart, Young 1936), taken of the stacked factors, so that
no product of full size is formed. Of B A = U S V^T, A becomes V^T with the norm that the mean of the A_k has, and B the
rest: a direction that no client trained then still has a row of A from which it can learn.

Everything else is averaged as by `mean`. It is exact for the server's default optimizer, whose steps are full.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from fedsim.core.hooks import Aggregator, Rules, ServerRound
from fedsim.core.registry import aggregator
from fedsim.core.types import Config, Contribution, Tensors

_A, _B = ".lora_a.weight", ".lora_b.weight"


class ProductMeanConfig(Config):
    """The product mean has no settings."""


@final
@aggregator("product-mean", summary="mean of the products of low-rank adapters, cut to their rank")
class ProductMean(Aggregator[ProductMeanConfig]):
    """Holds the updates of a round in memory. Not robust, as the mean."""

    needs_single_updates: ClassVar[bool] = True

    def refuses(self, rules: Rules, model: nn.Module) -> str | None:
        """Refuse gradients, whose products mean nothing, and models without trained pairs of factors."""
        if rules.algorithm == "fedsgd":
            return "the product of two gradients is no change of a weight. Set federation.algorithm = 'fedavg'"
        if not _pairs({name for name, p in model.named_parameters() if p.requires_grad}):
            return "the model trains no adapters with two factors. Use 'mean', which is exact where A is frozen"
        return None

    def combine(self, contributions: Iterable[Contribution], here: ServerRound) -> Tensor:
        """Return received minus new weights for the adapters, and the mean of all else; 0 if nobody has an example."""
        known = list(contributions)
        counts = torch.tensor([one.examples for one in known], dtype=torch.float64)
        if not counts.sum():
            return torch.zeros_like(known[0].vector)
        shares = (counts / counts.sum()).tolist()
        mean = sum((one.vector * share for one, share in zip(known, shares, strict=True)), torch.zeros(()))
        if here.layout is None:
            return mean
        tensors, buffers = here.layout.named(mean)
        each = [here.layout.named(one.vector)[0] for one in known]
        for name in _pairs(tensors.keys()):
            a, b = _mean_product(here.received, each, shares, name)
            tensors |= {name + _A: here.received[name + _A] - a, name + _B: here.received[name + _B] - b}
        return here.layout.flat(tensors, buffers).to(mean.dtype)


def _pairs(names: Iterable[str]) -> list[str]:
    """Return the layers both of whose factors are among the names."""
    known = set(names)
    return sorted(name.removesuffix(_B) for name in known if name.endswith(_B) and name.removesuffix(_B) + _A in known)


def _mean_product(
    received: Tensors, updates: Sequence[Tensors], shares: Sequence[float], name: str
) -> tuple[Tensor, Tensor]:
    """Return new A (r, in) and B (out, r) of one layer, whose product is nearest to the mean of the clients'."""
    first_a, first_b = received[name + _A], received[name + _B]
    rows = [(first_a - own[name + _A]).double() for own in updates]
    columns = [(first_b - own[name + _B]).double() * share for own, share in zip(updates, shares, strict=True)]
    left, left_rest = torch.linalg.qr(torch.cat(columns, dim=1))
    right, right_rest = torch.linalg.qr(torch.cat(rows).T)
    u, values, v = torch.linalg.svd(left_rest @ right_rest.T, full_matrices=False)
    rank = len(first_a)
    mean = torch.stack([own * share for own, share in zip(rows, shares, strict=True)]).sum(0)
    length = float(mean.norm()) / rank**0.5 or 1.0
    a = length * v[:rank] @ right.T
    b = left @ u[:, :rank] * values[:rank] / length
    return a.to(first_a), b.to(first_b)
