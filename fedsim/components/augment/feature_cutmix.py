"""feature-cutmix: CutMix on a hidden feature map, with labels mixed by the areas in that map.

Idea: As `cutmix`, on the output of a named layer. The draws belong to the batch; pasting happens only in the client's
    training pass, not in evaluation or when an attacker runs the model.
Equation: h'_i = h_i outside the box, h_p(i) inside; y'_i = l y_i + (1 - l) y_p(i), l = 1 - (box area) / (H' W'), for
    maps h of H' x W' entries.
Assumes: a layer that returns feature maps and runs once per forward pass, and no other component that changes or reads
    the batch.
Leaks: layers before the map process whole images, and their gradients are those of whole images.
Fails: as a defense; in accuracy the paper ranks it between MixUp and CutMix.
Source: Yun et al. 2019, arXiv 1905.04899.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.augment._mixing import Chances, Draw, draw_boxes, mixed_labels, paste
from fedsim.core.errors import NotApplicable, did_you_mean
from fedsim.core.hooks import Augmentation, HookContext, ModelComponent, PublicFederation
from fedsim.core.nets.masks import disable_dropout
from fedsim.core.nets.step_draws import get_current_draws
from fedsim.core.registry import component
from fedsim.core.types import Batch, Config, MethodDescription
from fedsim.core.types.effects import PastedMaps

_NAME = "feature-cutmix"
_BOXES = f"{_NAME}.map-boxes"
_PARTNERS, _WEIGHTS = f"{_NAME}.partners", f"{_NAME}.weights"
_MAPS = 4  # dimensions of a batch of feature maps


class FeatureCutMixConfig(Config):
    """Settings of Feature CutMix."""

    at: str = Field(description="name of the module with the mixed output maps", examples=["1"])
    size: tuple[int, int] = Field(description="height and width of these maps", examples=[(8, 8)])
    beta: float = Field(
        default=1.0, ge=0, le=100, description="both parameters b of the Beta distribution; 0 turns mixing off"
    )
    probability: float = Field(default=0.5, ge=0, le=1, description="chance that a batch is changed")
    per_sample: bool = Field(default=False, description="every example has its own box and weight")


@final
@component(
    _NAME,
    summary="pastes a box of a feature map into another",
    tier="research",
    paper="1905.04899",
    fidelity="variant",
    deviates="the paper's ablation on features, at any named layer",
    paper_steps=(("box of a feature map pasted, labels by its share", "_mix"),),
)
class FeatureCutMix(ModelComponent[FeatureCutMixConfig], Augmentation[FeatureCutMixConfig]):
    """Mixes labels in the batch, and a layer's output maps in the forward pass."""

    @property
    def batch_reader(self) -> str | None:
        """Name under which the component mixes examples of a batch inside the model."""
        return _NAME

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return `model` with a forward hook that mixes the maps; names and shapes of weights do not change.

        Raises:
            NotApplicable: no module has the name `at`.
        """
        names = {name for name, _ in model.named_modules() if name}
        if self.config.at not in names:
            raise NotApplicable(
                f"component '{_NAME}': no layer is called '{self.config.at}'.{did_you_mean(self.config.at, names)}"
            )
        model.get_submodule(self.config.at).register_forward_hook(_mix)
        return model

    def augment(self, batch: Batch, context: HookContext) -> Batch:
        """Return the inputs with labels as probabilities (B, K), and store the draws for the forward pass.

        Raises:
            FedsimError: the labels are neither classes nor probabilities.
        """
        assert context.federation is not None
        config = self.config
        chances = Chances(config.beta, config.probability, config.per_sample)
        draw = draw_boxes(len(batch), config.size, chances, context.generator)
        context.draws.update({_PARTNERS: draw.partners, _BOXES: draw.boxes, _WEIGHTS: draw.weights})
        return replace(batch, labels=mixed_labels(batch.labels, draw, context.federation.classes, batch.inputs))

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Refuse batches of one example, layers without maps of that size, and other batch readers."""
        smallest = min(federation.batch_size, federation.examples)
        if smallest < 2:  # noqa: PLR2004 - a pair
            return f"it mixes pairs of maps of a batch, but a batch holds {smallest}"
        its_names = [type(self).__name__, _NAME]
        readers = [name for name in federation.batch_readers if name not in its_names]
        if readers or len(federation.batch_readers) > len(its_names):
            return f"nothing else may change or read a batch, or repeat its forward pass: {(*readers, its_names[0])[0]}"
        return self._refuses_layer(federation, model)

    def _refuses_layer(self, federation: PublicFederation, model: nn.Module) -> str | None:
        shapes: list[tuple[int, ...]] = []
        handle = model.get_submodule(self.config.at).register_forward_hook(partial(_note, shapes))
        with torch.no_grad(), disable_dropout():
            model(federation.probe(2).inputs)
        handle.remove()
        if not shapes:
            return f"the forward pass never reaches '{self.config.at}'"
        (shape, *later_shapes) = shapes
        if later_shapes:
            return f"'{self.config.at}' runs {len(shapes)} times in a forward pass, expected once"
        if len(shape) != _MAPS:
            return f"it needs maps (channels, height, width), but '{self.config.at}' returns {shape[1:]}"
        if shape[2:] != self.config.size:
            return f"'{self.config.at}' returns maps of {shape[2]} x {shape[3]}. Set size = [{shape[2]}, {shape[3]}]"
        return None

    def public_description(self) -> MethodDescription:
        """Return the layer and the distribution of the draws."""
        config = self.config
        pasted = PastedMaps(config.per_sample, config.at, config.size)
        return MethodDescription(_NAME, (pasted,), config.model_dump())


def _mix(layer: nn.Module, _inputs: object, maps: Tensor) -> Tensor:
    draws = get_current_draws()
    if _BOXES not in draws or not layer.training:
        return maps
    draw = Draw(draws[_PARTNERS], draws[_BOXES], draws[_WEIGHTS])
    return paste(maps, draw)


def _note(shapes: list[tuple[int, ...]], _layer: nn.Module, _inputs: object, output: object) -> None:
    shapes.append(tuple(output.shape) if isinstance(output, Tensor) else ())
