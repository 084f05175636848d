"""Mix a batch's examples and labels, for MixUp and InstaHide."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core.hooks import HookContext, PublicFederation
from fedsim.core.nets.output_layer import output_layer
from fedsim.core.types import Batch


def mix_examples(batch: Batch, weights: Tensor, context: HookContext) -> Batch:
    """Return the batch of examples sum_j W_ij x_j with labels sum_j W_ij y_j, as probabilities (B, K).

    Args:
        batch: its labels are classes or probabilities.
        weights: W, shape (B, B); each row sums to 1.
        context: holds the local step; K is the number of outputs of the model's output layer.
    """
    inputs = (weights @ batch.inputs.flatten(1)).view_as(batch.inputs)
    return replace(batch, inputs=inputs, labels=weights @ _probabilities(batch.labels, context, inputs))


def _probabilities(labels: Tensor, context: HookContext, like: Tensor) -> Tensor:
    if labels.is_floating_point():
        return labels
    assert context.local is not None
    output = output_layer(context.local.model)
    assert output is not None
    return F.one_hot(labels, output[1].out_features).to(like)


def refuses_to_mix(images: int, federation: PublicFederation, model: nn.Module) -> str | None:
    """Return why `images` examples of a batch cannot be mixed, or None."""
    held = min(federation.batch_size, federation.examples)
    if held < images:
        return f"it mixes {images} examples of a batch, but a batch holds {held}"
    if output_layer(model) is None:
        return "the last layer must give the number of classes, but the model does not end in a linear layer"
    return None


def uniforms(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Sample float64 numbers in (0, 1), as arguments of an inverse distribution function."""
    return torch.rand(shape, generator=generator, dtype=torch.float64).clamp_min(torch.finfo(torch.float64).tiny)
