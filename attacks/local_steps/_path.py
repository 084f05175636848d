"""Recover the intermediate weights of a client's training from its examples; masks, labels and order are unknown.

At the received weights, inputs of deeper layers are exact for the first step and shifted for later steps. Masks and
labels are discrete: most are correct although the weights have changed. The algorithm simulates the resulting steps and
infers masks, labels and order again at the simulated weights, which are closer to the true weights. It repeats this
until the residual stops falling.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from attacks.core.client_gradient import client_gradient
from attacks.core.layers import Behind, PixelLayer, examples_from, first_linear, layer_behind
from attacks.core.masks_by_layer import Forward, forward_of, peel
from attacks.core.results import NothingFound
from attacks.core.scale_and_sign import outside_row_space, signed_scales
from attacks.core.spans import span_of
from attacks.local_steps._multistep import batch_sizes, sites_for
from fedsim.core.types import Masks, Observation, Tensors

_PASSES = 12
_SETTLED = 0.9  # a better path leaves at most this share of the best residual
_PATIENCE = 3  # passes without a better path before the search ends; with more steps, the number of steps


@dataclass(frozen=True)
class Path:
    """Simulated training of a client.

    Attributes:
        inputs: examples, shape (N, *shape).
        labels: shape (N,).
        steps: indices of the examples of every step.
        residual: norm of the update's residual, relative to the norm of the whole update.
        passes: number of times that masks and labels were inferred.
    """

    inputs: Tensor
    labels: Tensor
    steps: tuple[Tensor, ...]
    residual: float
    passes: int


def follow(observation: Observation, as_one: Observation, examples: Tensor) -> Path:
    """Return the path that explains the update best.

    Args:
        observation: update of several local steps.
        as_one: the same update, treated as a single step on all examples.
        examples: examples of all steps in any order, shape (N, *shape).

    Raises:
        NothingFound: the masks or labels of the model cannot be inferred.
    """
    layers = _Layers.of(observation, len(examples))
    models: Sequence[nn.Module] = [observation.model] * observation.local_steps
    steps: tuple[Tensor, ...] = ()
    best: Path | None = None
    for number in range(1, 2 * len(models) + _PASSES + 1):
        peeled = peel(as_one, examples, _forward(models, steps, as_one, examples))
        if peeled.masks is None or peeled.labels is None:
            raise NothingFound("masks or labels of a step cannot be read in this model")
        steps = _dealt(layers.misfits(models, examples, peeled.masks), batch_sizes(observation))
        models, update = _train(observation, examples, peeled.labels, peeled.masks, steps)
        path = Path(examples, peeled.labels, steps, _measure_residual(observation, update), number)
        best = path if best is None or path.residual < _SETTLED * best.residual else best
        if number - best.passes > max(_PATIENCE, len(models)):
            return best
        examples = layers.rescale_examples(observation, models, steps, examples, peeled.masks)
    assert best is not None
    return best


@dataclass(frozen=True)
class _Layers:
    """The first two layers.

    Attributes:
        first: first layer, which reads the pixels.
        behind: second layer; computes its inputs from the first layer's outputs.
        rows: basis of the second layer's inputs of all steps, shape (N, width).
    """

    first: PixelLayer
    behind: Behind
    rows: Tensor

    @classmethod
    def of(cls, observation: Observation, examples: int) -> _Layers:
        first = first_linear(observation)
        assert first is not None
        next_layer = layer_behind(observation, first.name)
        assert next_layer is not None
        gradient = observation.update.tensors[f"{next_layer.name}.weight"].double()
        return cls(first, next_layer, span_of(gradient, limit=examples)[0])

    def misfits(self, models: Sequence[nn.Module], examples: Tensor, masks: Masks) -> Tensor:
        """Return the distance of the second layer's inputs from its row space, at the weights of each step, (K, N)."""
        kept = _get_kept_units(masks, len(examples), self.rows.shape[1])
        return torch.stack(
            [
                outside_row_space(self.behind.inputs(self._outputs(model, examples)), kept, self.rows).norm(dim=1)
                for model in models
            ]
        )

    def rescale_examples(
        self,
        observation: Observation,
        models: Sequence[nn.Module],
        steps: Sequence[Tensor],
        examples: Tensor,
        masks: Masks,
    ) -> Tensor:
        """Return the examples, rescaled to fit the weights of their step. With a bias, the scale is already exact."""
        if f"{self.first.name}.bias" in observation.update.tensors:
            return examples
        corrected = examples.clone()
        kept = _get_kept_units(masks, len(examples), self.rows.shape[1])
        for model, step in zip(models, steps, strict=True):
            pixels = examples[step].double().flatten(1)[:, self.first.pixels[0]]
            pixels = pixels / pixels.square().mean(1, keepdim=True).sqrt()
            weight = model.get_parameter(f"{self.first.name}.weight").detach().double()
            scales = signed_scales(self.behind.inputs, pixels @ weight.T, kept[step], self.rows)
            rows = pixels * scales.values[:, None]
            rescaled = examples_from(rows, self.first, observation)
            corrected[step] = torch.where(
                scales.is_identified.view(-1, *(1 for _ in rescaled.shape[1:])), rescaled, corrected[step]
            )
        return corrected

    def _outputs(self, model: nn.Module, examples: Tensor) -> Tensor:
        named = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
        outputs = examples.double().flatten(1)[:, self.first.pixels[0]] @ named[f"{self.first.name}.weight"].T
        return outputs + named.get(f"{self.first.name}.bias", torch.zeros(1).double())


def _get_kept_units(masks: Masks, examples: int, width: int) -> Tensor:
    """Return the mask of kept units of the first layer, shape (N, width)."""
    if not masks:
        return torch.ones(examples, width, dtype=torch.float64)
    return (masks[0].flatten(1) > 0).double()


def _forward(
    models: Sequence[nn.Module], steps: Sequence[Tensor], observation: Observation, examples: Tensor
) -> Forward:
    """Return the forward pass of every example at the weights of its step; without steps, at the received weights."""
    if not steps:
        return forward_of(models[0], observation.sites, examples)
    passes = [
        forward_of(model, sites_for(observation, len(step)), examples[step])
        for model, step in zip(models, steps, strict=True)
    ]
    order = torch.cat(list(steps)).argsort()

    def forward(masks: list[Tensor]) -> tuple[list[tuple[str, Tensor]], Tensor]:
        parts = [run([mask[step] for mask in masks]) for run, step in zip(passes, steps, strict=True)]
        names = [name for name, _ in parts[0][0]]
        inputs = [torch.cat([seen[index][1] for seen, _ in parts])[order] for index in range(len(names))]
        return list(zip(names, inputs, strict=True)), torch.cat([outputs for _, outputs in parts])[order]

    return forward


def _dealt(misfits: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Return the example indices of every step: the remaining examples with the smallest misfit (K, N).

    The weights before a step follow from earlier steps alone, so every pass makes at least one more step correct.
    """
    steps: list[Tensor] = []
    left = torch.ones(misfits.shape[1], dtype=torch.bool)
    for misfit, size in zip(misfits, sizes, strict=True):
        chosen = torch.where(left, misfit, torch.inf).argsort()[:size].sort().values
        left[chosen] = False
        steps.append(chosen)
    return tuple(steps)


def _train(
    observation: Observation, examples: Tensor, labels: Tensor, masks: Masks, steps: Sequence[Tensor]
) -> tuple[list[nn.Module], Tensors]:
    """Simulate SGD; return the models before every step, and the weight delta after the last step."""
    momentum = float(observation.optimizer_settings.get("momentum", 0.0))
    trained = [name for name, parameter in observation.model.named_parameters() if parameter.requires_grad]
    models, velocity = [observation.model], dict[str, Tensor]()
    for places in steps:
        local_observation = replace(observation, model=models[-1], sites=sites_for(observation, len(places)))
        chosen = tuple(mask[places] for mask in masks)
        gradient = client_gradient(local_observation, examples[places], labels[places], chosen, trained)
        velocity = {name: momentum * velocity.get(name, 0.0) + g for name, g in gradient.items()}
        after = copy.deepcopy(models[-1])
        with torch.no_grad():
            for name, step in velocity.items():
                after.get_parameter(name).sub_(observation.learning_rate * step)
        models.append(after)
    first, last = observation.model, models[-1]
    update = {n: first.get_parameter(n).detach() - last.get_parameter(n).detach() for n in observation.update.tensors}
    return models[:-1], update


def _measure_residual(observation: Observation, update: Tensors) -> float:
    pairs = [(tensor.double(), update[name].double()) for name, tensor in observation.update.tensors.items()]
    distance = math.hypot(*(float((theirs - ours).norm()) for theirs, ours in pairs))
    return distance / math.hypot(*(float(theirs.norm()) for theirs, _ in pairs))
