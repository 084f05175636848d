"""How good embeddings of sentences are: do they agree with people, are they aligned, uniform, and blind to length?

Papers: the correlation is that of Cer et al. 2017, arXiv 1708.00055; alignment and uniformity those of Wang, Isola
2020, arXiv 2005.10242, equations 1 and 2 with alpha = 2 and t = 2. All take embeddings of any norm and normalise them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.core.types import Similarities

_SHARPNESS = 2.0


def spearman(first: Tensor, second: Tensor) -> float:
    """Return the rank correlation of two series of N numbers, in [-1, 1]; ties share their mean rank.

    0 where one of them is constant.
    """
    from scipy.stats import rankdata  # noqa: PLC0415 - most runs need not wait for SciPy

    ranks = torch.stack([torch.from_numpy(rankdata(figures.double().numpy())) for figures in (first, second)])
    centred = ranks - ranks.mean(1, keepdim=True)
    spread = centred.norm(dim=1).prod()
    return float(centred.prod(0).sum() / spread) if float(spread) else 0.0


def cosines(embeddings: Tensor, pairs: Tensor) -> Tensor:
    """Return the cosine of pairs (P, 2) of embeddings (N, d), shape (P,)."""
    unit = F.normalize(embeddings.double(), dim=1)
    return (unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(1)


def agreement(embeddings: Tensor, similarities: Similarities) -> float:
    """Return the rank correlation between the cosines of pairs and what people said of them, in [-1, 1].

    Args:
        embeddings: of the test examples, shape (N, d).
        similarities: pairs of them and scores.
    """
    return spearman(cosines(embeddings, similarities.pairs), similarities.scores)


def length_bias(embeddings: Tensor, lengths: Tensor, pairs: Tensor) -> float:
    """Return the rank correlation between how different the lengths of pairs are and their cosines, in [-1, 1].

    Below 0 where sentences of equal length seem alike.

    Args:
        embeddings: shape (N, d).
        lengths: in tokens, shape (N,).
        pairs: P pairs of them whose meanings have nothing to do with each other, shape (P, 2).
    """
    apart = (lengths[pairs[:, 0]] - lengths[pairs[:, 1]]).abs()
    return spearman(apart, cosines(embeddings, pairs))


def alignment(first: Tensor, second: Tensor) -> float:
    """Return the mean squared distance of positive pairs (N, d), in [0, 4]; 0 is best."""
    return float((F.normalize(first.double(), dim=1) - F.normalize(second.double(), dim=1)).square().sum(1).mean())


def uniformity(embeddings: Tensor) -> float:
    """Return the logarithm of the mean of exp(-2 |x - y|^2) over all pairs of N > 1 embeddings; 0 if all are equal."""
    distances = torch.pdist(F.normalize(embeddings.double(), dim=1)).square()
    return float((-_SHARPNESS * distances).exp().mean().log())
