"""Invert several local steps of SGD one after the other: an update's spans contain the first step's inputs exactly.

    theta_1 = theta_0 - a g(theta_0; S_1),    theta_1 - theta_K = sum over the later steps of a g(theta_k; S_k+1)

Given all sentences of the first step, the attacker computes its gradient and the weights after it. The rest is an
update of one step fewer at known weights. So the sentences of every step are recovered, however far the weights move,
if all sentences of each earlier step are. No span shows the token after a sentence's end: it is chosen to minimise the
residual of the update.
Derived for this project, no paper.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from attacks.core.attention import attentions
from attacks.core.client_gradient import client_gradient
from attacks.core.noise_level import rounding_levels
from attacks.local_steps._multistep import batch_sizes
from attacks.text._sentences import explains, find_final_tokens, with_labels
from attacks.text._subspaces import gradients_of, rank
from attacks.text._words import words_of
from fedsim.core.types import Observation, Tensors


def can_go_on(observation: Observation) -> bool:
    """Return whether the client's steps can be recomputed from their sentences: plain SGD with next words as labels."""
    return (
        observation.local_steps > 1
        and all(observation.batch_sizes or (0,))
        and not observation.optimizer_settings.get("momentum")
        and not any(site.rate for site in observation.sites)
        and observation.labels is None
        and explains(observation)
    )


def behind_first_step(observation: Observation, sentences: Tensor) -> Observation:
    """Return the observation after the first step: that step's weights, and the update of the later steps.

    Args:
        observation: several steps for which `can_go_on` holds.
        sentences: all sentences of the first step, tokens (B, T), padded with -1.
    """

    def left(last: Tensor) -> tuple[float, float]:
        return _measure_residual(observation, _step(observation, sentences, last))

    _, *sizes = batch_sizes(observation)
    _, last = find_final_tokens(observation, words_of(observation), len(sentences), left)
    step, model = _step(observation, sentences, last), observation.working_copy()
    with torch.no_grad():
        for name, change in step.items():
            model.get_parameter(name).sub_(change)
    tensors = {
        # Subtract as the client did, so that its rounding is not counted twice.
        name: model.get_parameter(name).detach() - (observation.model.get_parameter(name).detach() - tensor)
        for name, tensor in observation.update.tensors.items()
    }
    return replace(
        observation,
        model=model,
        update=replace(observation.update, tensors=tensors),
        local_steps=observation.local_steps - 1,
        batch_size=sizes[0],
        batch_sizes=tuple(sizes),
        examples=sum(sizes),
    )


def _measure_residual(observation: Observation, step: Tensors) -> tuple[float, float]:
    """Return the rank of the second attention's gradient after subtracting a step, and the residual's squared norm.

    A step with one wrong word leaves all directions of its sentence in the residual.
    """
    tensors = {name: tensor - step[name] for name, tensor in observation.update.tensors.items()}
    remaining = replace(observation, update=replace(observation.update, tensors=tensors))
    layer = attentions(observation.model)[1]
    gradients = gradients_of(remaining, layer)
    read = rank(gradients, rounding_levels(observation, gradients))
    return read, sum(float(tensor.double().square().sum()) for tensor in tensors.values())


def _step(observation: Observation, sentences: Tensor, last: Tensor) -> Tensors:
    """Return the step a g of sentences followed by the tokens `last`."""
    trained = [name for name, parameter in observation.model.named_parameters() if parameter.requires_grad]
    gradient = client_gradient(observation, *with_labels(sentences, last), None, trained)
    return {name: observation.learning_rate * slope for name, slope in gradient.items()}
