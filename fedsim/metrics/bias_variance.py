"""Bias and variance of predictions over training sets: mean ||q_t - y||^2 = ||q_bar - y||^2 + mean ||q_t - q_bar||^2.

Noisy labels can only be fitted at the price of variance; compressed features trade it for bias, and the mean of two
networks lowers it. Paper: Chen et al. 2022, arXiv 2206.13140.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class BiasVariance(NamedTuple):
    """Means over examples; `loss` is the mean squared error of single networks, and the sum of the other two."""

    bias_squared: float
    variance: float
    loss: float


def bias_variance(predictions: Tensor, labels: Tensor) -> BiasVariance:
    """Decompose the squared error of networks that were trained on different samples of one population.

    Args:
        predictions: probabilities of T networks for N examples, shape (T, N, K).
        labels: true classes, shape (N,): the clean ones.
    """
    q, truth = predictions.double(), F.one_hot(labels, predictions.shape[2]).double()
    mean = q.mean(0)
    return BiasVariance(
        bias_squared=float((mean - truth).square().sum(1).mean()),
        variance=float((q - mean).square().sum(2).mean()),
        loss=float((q - truth).square().sum(2).mean()),
    )
