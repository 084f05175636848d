"""A client's training as a pure function of its examples and dropout masks, for derivatives of any order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, replace_all_batch_norm_modules_

from attacks.core.defense_facts import bound_of
from attacks.core.mean_gradient import gradient_weight
from attacks.core.tolerances import TINY
from fedsim.core.foreign import pytorch
from fedsim.core.nets.layer_calls import layer_inputs
from fedsim.core.nets.masks import inject_masks
from fedsim.core.types import DropoutSite, Masks, Observation, Tensors


class Client:
    """Computes the mean gradient of the local steps in double precision, on the device of the observed model.

    Attributes:
        steps: number of local steps, each on all examples.
        device: device of all computations.
    """

    def __init__(self, observation: Observation) -> None:
        """Copy the model; the observed model is not changed."""
        self.steps = observation.local_steps
        self.device = next(observation.model.parameters()).device
        self._model = observation.working_copy("train", torch.float64).requires_grad_(False)
        write_no_statistics(self._model)
        trained = {name for name, parameter in observation.model.named_parameters() if parameter.requires_grad}
        self._received = {name: parameter for name, parameter in self._model.named_parameters() if name in trained}
        self._sent = list(observation.update.tensors)
        self._loss, self._sites = observation.loss, observation.sites
        is_gradient = observation.update.kind == "gradient"
        self._step_size = 1.0 if is_gradient else observation.learning_rate
        settings = {} if is_gradient else observation.optimizer_settings
        self._momentum = float(settings.get("momentum", 0.0))
        self._weight = gradient_weight(observation) / self._step_size
        self._bound = bound_of(observation)

    def gradient(self, inputs: Tensor, labels: Tensor, masks: Sequence[Masks]) -> Tensor:
        """Return the sent tensors, in units of one gradient, flattened and concatenated, shape (P,).

        Args:
            inputs: shape (B, *shape), for any B that the masks fit.
            labels: shape (B,).
            masks: masks of every local step, one per site.
        """
        total = velocity = {name: torch.zeros_like(tensor) for name, tensor in self._received.items()}
        for step_masks in masks:
            weights = {name: tensor - self._step_size * total[name] for name, tensor in self._received.items()}
            gradient = grad(self._value)(weights, inputs, labels, step_masks)
            velocity = {name: self._momentum * velocity[name] + gradient[name] for name in gradient}
            total = {name: total[name] + velocity[name] for name in gradient}
        sent = torch.cat([total[name].flatten() for name in self._sent]) / self._weight
        return sent if self._bound is None else sent * (self._bound / sent.norm().clamp_min(TINY)).clamp_max(1.0)

    def features(self, inputs: Tensor, *, name: str, masks: Masks) -> Tensor:
        """Return a layer's input for examples (B, *shape), shape (B, ...), in the received model."""
        with inject_masks(self._sites_for(masks), masks), layer_inputs(self._model, [name]) as seen:
            functional_call(self._model, dict[str, Tensor](self._received), (inputs,))
        return seen[-1][1]

    def _value(self, weights: Tensors, inputs: Tensor, labels: Tensor, masks: Masks) -> Tensor:
        with inject_masks(self._sites_for(masks), masks):
            return self._loss(functional_call(self._model, dict(weights), (inputs,)), labels)

    def _sites_for(self, masks: Masks) -> tuple[DropoutSite, ...]:
        return self._sites if masks else ()


def write_no_statistics(model: nn.Module) -> None:
    """Replace batch normalisations that update statistics in place; frozen and custom ones are unchanged."""
    for module in list(model.modules()):
        if module.training and type(module).forward is pytorch.BatchNorm.forward:
            replace_all_batch_norm_modules_(module)
