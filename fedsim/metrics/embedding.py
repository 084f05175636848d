"""Quality of sentence embeddings: rank correlation with human similarity ratings.

Paper: the correlation is that of Cer et al. 2017, arXiv 1708.00055. Embeddings may have any norm.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.core.types import Similarities


def spearman(first: Tensor, second: Tensor) -> float:
    """Return the rank correlation of two series of N numbers, in [-1, 1]; ties share their mean rank.

    0 if either is constant.
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
    """Return the rank correlation between the cosines of pairs and human ratings, in [-1, 1].

    Args:
        embeddings: embeddings of the test examples, shape (N, d).
        similarities: pairs of test examples with ratings.
    """
    return spearman(cosines(embeddings, similarities.pairs), similarities.scores)
