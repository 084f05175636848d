"""Recover the last linear layer's input for each example, and the loss's derivative by it, from its gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from attacks.core.head_features import features_of
from attacks.core.mean_gradient import as_gradient
from attacks.second_order._stage_equations import StageOutput
from fedsim.core.errors import NotApplicable
from fedsim.core.types import Masks, Observation

_DROPPED = 1e-6  # relative to the largest feature; rounding errors of separated features stay below


class HeadReading(NamedTuple):
    """The features as output of the last stage, and masks of a dropout between the stage and the head."""

    output: StageOutput
    masks: Masks


def read_head(
    observation: Observation, name: str, shape: tuple[int, ...], labels: Tensor, generator: Generator
) -> HeadReading:
    """Return the features, in the output shape of the last stage, and the derivative of the loss by them.

    For a single example, the gradient of the bias is the derivative by the scores, so rounding of a small loss has no
    effect. Zeros are dropped features, whose values are unknown.

    Raises:
        NotApplicable: the layer has no gradient, or its gradient does not separate the batch.
    """
    features, errors = _features_and_errors(observation, name, labels, generator)
    is_kept = features.abs() > _DROPPED * features.abs().amax(1, keepdim=True)
    cotangent = errors @ _parameter(observation, f"{name}.weight")
    if not observation.sites:
        known = torch.ones(shape, dtype=torch.bool)
        return HeadReading(StageOutput(features.view(shape), cotangent.view(shape), known), ())
    (site,) = observation.sites
    kept, share = is_kept.to(features), 1.0 - site.rate
    values, cotangent = share * features * kept, cotangent * kept / share
    output = StageOutput(values.view(shape), cotangent.view(shape), is_kept.view(shape))
    return HeadReading(output, (kept.view(site.shape),))


def _features_and_errors(
    observation: Observation, name: str, labels: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    tensors = as_gradient(observation).update.tensors
    if f"{name}.weight" not in tensors:
        raise NotApplicable(f"the last layer '{name}' is not trained")
    if len(labels) == 1 and f"{name}.bias" in tensors:
        errors = tensors[f"{name}.bias"].cpu().double()[None]
        return errors @ tensors[f"{name}.weight"].cpu().double() / errors.square().sum(), errors
    separated = features_of(observation, labels, generator)
    if separated is None:
        raise NotApplicable("the head's gradient does not determine the head's input for each example")
    scores = separated.features @ _parameter(observation, f"{name}.weight").T
    if f"{name}.bias" in tensors:
        scores = scores + _parameter(observation, f"{name}.bias")
    return separated.features, (scores.softmax(1) - F.one_hot(labels.cpu(), scores.shape[1])) / len(labels)


def _parameter(observation: Observation, name: str) -> Tensor:
    return observation.model.get_parameter(name).detach().cpu().double()
