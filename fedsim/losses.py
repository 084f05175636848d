"""Cross-entropy of models that answer once, and of models that answer several times for every example.

Outputs are logits of shape (B, K), or (B, M, K) of M answers, whose losses are averaged; labels are classes of shape
(B,), or probabilities of shape (B, K).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

_ONE_ANSWER = 2


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over examples and answers, a scalar."""
    if outputs.dim() == _ONE_ANSWER:
        return F.cross_entropy(outputs, labels)
    return per_example(outputs, labels).mean()


def per_example(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return each example's mean over its answers, shape (B,)."""
    if outputs.dim() == _ONE_ANSWER:
        return F.cross_entropy(outputs, labels, reduction="none")
    answers = outputs.shape[1]
    each = F.cross_entropy(outputs.flatten(0, 1), labels.repeat_interleave(answers, 0), reduction="none")
    return each.view(-1, answers).mean(1)
