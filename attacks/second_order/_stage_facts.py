"""Image-independent diagnostics of each network stage: shapes, null directions, number of equations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from attacks.core.labels import examples_of
from attacks.second_order._residual_chain import Chain, Stage, node_values
from attacks.second_order._stage_equations import Blindness
from fedsim.core.errors import NotApplicable
from fedsim.core.foreign import pytorch
from fedsim.core.nets.masks import keep_masks
from fedsim.core.types import Observation

_PICTURES = 8
_CHANGED = 1e-2  # relative to the output: only the constant inside a norm causes so small a difference
_EQUAL = 1e-6


@dataclass(frozen=True)
class StageFacts:
    """A stage and its input.

    Attributes:
        stage: the stage.
        shape: shape of the input, (B, ...).
        returns: shape of the output, (B, ...).
        size: mean square of the input, for noise as the image.
        blind: null directions of the stage's input.
        equations: largest number of equations for the input: outputs of the layers that read it, and entries of their
            gradients.
        centres: whether the stage has a batch normalisation, so that gradients hold patches without their mean.
    """

    stage: Stage
    shape: tuple[int, ...]
    returns: tuple[int, ...]
    size: float
    blind: Blindness
    equations: int
    centres: bool

    @property
    def unknowns(self) -> int:
        """Number of entries of the input."""
        return torch.Size(self.shape).numel()


def facts_of(observation: Observation, chain: Chain) -> tuple[StageFacts, ...]:
    """Measure each stage on noise images.

    Raises:
        NotApplicable: the model has dropout inside a stage.
    """
    generator = torch.Generator().manual_seed(0)
    examples = examples_of(observation)
    shape = (max(_PICTURES, examples), *observation.spec.shape)
    values, diagnostics = torch.randn(shape, generator=generator, dtype=torch.float64), []
    with torch.no_grad(), keep_masks(generator) as masks:
        for stage in chain.stages:
            batch = values[:examples]
            values = stage.close(stage.apply(stage.weights(), before := values))
            diagnostics.append(
                StageFacts(
                    stage,
                    tuple(batch.shape),
                    tuple(values[:examples].shape),
                    float(before.square().mean()),
                    _blindness(stage, batch, generator),
                    _count(stage, batch),
                    any(isinstance(module, pytorch.BatchNorm) for module in stage.module.modules()),
                )
            )
    if masks:
        raise NotApplicable(
            "the model has dropout inside its blocks, and the attack does not solve for masks inside blocks"
        )
    return tuple(diagnostics)


def _blindness(stage: Stage, inputs: Tensor, generator: torch.Generator) -> Blindness:
    """Return the null directions among scales and lattice constants, by trial."""
    weights = stage.weights()
    outputs = stage.apply(weights, inputs)

    def change(moved: Tensor) -> float:
        return float((stage.apply(weights, moved) - outputs).norm() / outputs.norm())

    sizes = torch.linspace(0.5, 1.5, len(inputs), dtype=torch.float64).view(-1, *[1] * (inputs.ndim - 1))
    scales = next((len(probe) for probe in (sizes, sizes[:1]) if change(probe * inputs) < _CHANGED), 0)
    if inputs.ndim != 4 or min(inputs.shape[2:]) < 2:  # noqa: PLR2004 - images with a lattice
        return Blindness(scales)
    constants = torch.zeros_like(inputs)
    constants[:, :, ::2, ::2] = torch.randn((1, inputs.shape[1], 1, 1), generator=generator, dtype=torch.float64)
    return Blindness(scales, change(inputs + constants) < _EQUAL)


def _count(stage: Stage, inputs: Tensor) -> int:
    """Return an upper bound on the number of equations for a batch's input.

    Layers that read the input give their outputs, at most as many as their own input entries, and the entries of their
    gradients; a shortcut without a layer gives the whole output.
    """
    values = node_values(stage.module, inputs)
    count, direct = 0, set[fx.Node]()
    for node in stage.module.graph.nodes:
        sources = [source for source in node.all_input_nodes if source in direct]
        layer = stage.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if sources and isinstance(layer, nn.Conv2d | nn.Linear):
            count += min(values[node].numel(), _entries_read(layer, values[sources[0]]))
            count += layer.weight.numel() if f"{node.target}.weight" in stage.names else 0
        elif sources and node.op == "output":
            count += values[sources[0]].numel()
        elif sources or node.op == "placeholder":
            direct.add(node)
    return count


def _entries_read(layer: nn.Module, inputs: Tensor) -> int:
    """Return the number of input entries on which a layer's output depends."""
    point = inputs.detach().requires_grad_()
    with torch.enable_grad():
        (slopes,) = torch.autograd.grad(layer(point).square().sum(), point)
    return int(slopes.count_nonzero())
