"""Cross-entropy for models with one answer, several answers per example, or an answer per token; losses of numbers.

Outputs are logits of shape (B, K), or (B, M, K) of M answers, whose losses are averaged; labels are classes of shape
(B,), or probabilities of shape (B, K). If labels are next tokens or tags, integers of shape (B, T), outputs are (B, T,
K) or (B, M, T, K): an example's loss is the mean over its tokens with label other than -100.

A batch's loss is the mean over its examples, independent of their lengths. So the mean of several clients' gradients is
the gradient over all their examples, and per-example gradients add up, as private training requires.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.types import Loss

IGNORED = -100
_ONE_ANSWER = 2
_ANSWERS_OF_TOKENS = 4


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss over examples and answers, a scalar."""
    if outputs.dim() == _ONE_ANSWER and labels.is_floating_point():
        # Equal to F.cross_entropy, with half as many calls.
        return torch.log_softmax(outputs, 1).view(-1) @ labels.reshape(-1) / -len(labels)
    if outputs.dim() == _ONE_ANSWER:
        return F.cross_entropy(outputs, labels)
    return compute_example_losses(outputs, labels).mean()


def compute_example_losses(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return each example's mean loss over its answers or tokens, shape (B,); 0 for an example without tokens."""
    if outputs.dim() == _ONE_ANSWER:
        return F.cross_entropy(outputs, labels, reduction="none")
    answers = outputs.shape[1]
    if are_tokens(labels) and outputs.dim() == _ANSWERS_OF_TOKENS:
        losses = compute_example_losses(outputs.flatten(0, 1), labels.repeat_interleave(answers, 0))
        return losses.view(-1, answers).mean(1)
    if are_tokens(labels):
        # Flattened tokens have contiguous scores: several times as fast as (B, K, T) for many tokens.
        losses = F.cross_entropy(outputs.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED)
        return losses.view(labels.shape).sum(1) / (labels != IGNORED).sum(1).clamp_min(1)
    losses = F.cross_entropy(outputs.flatten(0, 1), labels.repeat_interleave(answers, 0), reduction="none")
    return losses.view(-1, answers).mean(1)


def log_odds(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return log(p / (1 - p)) of the probability p of each example's own label or tokens, shape (B,).

    For a text, p is the geometric mean of its tokens' probabilities. Numerically stable for p near 0 or 1.
    """
    if are_tokens(labels):
        loss = compute_example_losses(outputs, labels).clamp_min(torch.finfo(outputs.dtype).eps)
        return -loss - (-torch.expm1(-loss)).log()
    column = labels[:, None]
    rival_score = outputs.scatter(1, column, -torch.inf).logsumexp(1)
    return outputs.gather(1, column)[:, 0] - rival_score


@torch.enable_grad()
def is_cross_entropy(loss: Loss, shape: tuple[int, ...]) -> bool:
    """Return whether a loss has the gradient of cross-entropy, tested on random logits.

    Args:
        loss: maps logits and labels to a scalar.
        shape: shape of the logits: (B, K) with classes as labels, (B, T, K) with next tokens. With B = 1 a sum over
            examples is not distinguished from their mean.
    """
    if shape[-1] < 2:  # noqa: PLR2004 - one logit has no softmax
        return False
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(shape[-1], shape[:-1], generator=generator)
    try:
        value = loss(logits, labels)
    except (FedsimError, IndexError, RuntimeError, ValueError):  # its targets are no labels, e.g. masked positions
        return False
    if not value.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(value, logits, materialize_grads=True)
    (expected,) = torch.autograd.grad(cross_entropy(logits, labels), logits)
    return torch.allclose(gradient, expected)


def shaped_as(labels: Tensor, outputs: Tensor) -> Tensor:
    """Return labels in the shape of outputs, so that a difference of both is never broadcast.

    Raises:
        FedsimError: the numbers of outputs and labels differ.
    """
    if labels.numel() != outputs.numel():
        raise FedsimError(
            f"outputs of shape {tuple(outputs.shape)} do not match labels of shape "
            f"{tuple(labels.shape)}: a regression loss needs an output for each number of a "
            "label"
        )
    return labels.reshape(outputs.shape)


@dataclass(frozen=True)
class NumberLoss:
    """A user's loss of numbers. It never broadcasts outputs against labels.

    Attributes:
        loss: ``loss(outputs, labels) -> scalar``.
        label_shape: shape of one example's label that `loss` expects; None: the shape of one example's outputs.
    """

    loss: Loss
    label_shape: tuple[int, ...] | None = None

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of outputs and as many labels, a scalar.

        Raises:
            FedsimError: the numbers of outputs and labels differ.
        """
        labels = shaped_as(labels, outputs)
        return self.loss(outputs, labels if self.label_shape is None else labels.reshape(-1, *self.label_shape))


@dataclass(frozen=True)
class OneHotLoss:
    """A user's loss of one-hot labels, called with classes.

    Attributes:
        loss: ``loss(outputs, one_hot) -> scalar``.
        classes: length of a one-hot row.
    """

    loss: Loss
    classes: int

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of outputs (B, K) and classes (B,), a scalar."""
        return self.loss(outputs, F.one_hot(labels, self.classes).to(outputs))


def ignored_labels(labels: Tensor) -> Tensor:
    """Return the mask of token labels that the loss ignores (-100), shaped like `labels`."""
    return (labels == IGNORED) if are_tokens(labels) else torch.zeros_like(labels, dtype=torch.bool)


def are_classes(labels: Tensor) -> bool:
    """Return whether labels are single classes, integers of shape (B,)."""
    return labels.ndim == 1 and not labels.is_floating_point()


def are_tokens(labels: Tensor) -> bool:
    """Return whether labels are next tokens or tags (B, T), not classes (B,) or probabilities (B, K)."""
    return labels.dim() == _ONE_ANSWER and labels.dtype == torch.long
