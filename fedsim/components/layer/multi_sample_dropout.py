"""multi-sample-dropout: applies M dropout masks to the same features and averages their losses.

Idea: From one layer on, a training pass processes M samples of each example with the same weights; their gradients are
    averaged. M = 1 is plain dropout. Evaluation uses a single sample; names and shapes of weights do not change.
Equation: L = 1/M sum_m CE(g(h z_m / (1 - p)), y)
Assumes: a dropout layer, and later layers that treat samples like examples.
Leaks: the gradient converges to that without dropout, like 1 / sqrt(M), so an attacker that ignores masks improves; one
    that estimates masks has M times as many to find.
Fails: as a defense, with many samples.
Source: Inoue 2019, arXiv 1905.09788; its flips and pooling offsets are the settings flip_half and shift_pooling.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.layer._samples import FlattenSamples, Pooling, Samples
from fedsim.core.errors import NotApplicable, did_you_mean
from fedsim.core.hooks import IMAGES_AND_TEXT, Layer, PublicFederation
from fedsim.core.nets.masks import record_masks
from fedsim.core.registry import component
from fedsim.core.types import Config, Modality

_NAME = "multi-sample-dropout"
_EXAMPLES = 2
_ROUNDING = 1e-4


class MultiSampleDropoutConfig(Config):
    """Settings of multi-sample dropout."""

    samples: int = Field(default=8, ge=1, description="masks M per example and step")
    at: str | None = Field(
        default=None,
        description="first dropout, flattening or pooling layer with samples; absent: the last dropout layer",
    )
    flip_half: bool = Field(default=False, description="mirror the feature maps of every second sample")
    shift_pooling: bool = Field(
        default=False, description="shift each sample's maps by another number of zeros before pooling"
    )


@final
@component(
    _NAME,
    summary="applies several dropout masks to the same features in a step",
    tier="core",
    paper="1905.09788",
    fidelity="variant",
    deviates="the paper's flips and pooling offsets are settings, off by default",
    paper_steps=(
        ("mean loss over several masks of a shared feature", "MultiSampleDropout.prepare"),
        ("one answer in evaluation", "MultiSampleDropout.prepare"),
        ("mirrored and shifted feature maps", "fedsim.components.layer._samples.Samples.forward"),
    ),
)
class MultiSampleDropout(Layer[MultiSampleDropoutConfig]):
    """Runs a model's last layers on M samples of each example in training: logits (B, M, K)."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return `model`, changed in place.

        Raises:
            NotApplicable: the model has no dropout layer, or no layer of the name in `at`.
        """
        config, path = self.config, self._start(model)
        if config.shift_pooling and not isinstance(model.get_submodule(path), Pooling):
            raise NotApplicable(f"component '{_NAME}': shift_pooling needs `at` to name a pooling layer.")
        paths = [name for name, _ in model.named_modules()]
        for name in paths[paths.index(path) :]:
            module = model.get_submodule(name)
            if isinstance(module, nn.Flatten):
                model.set_submodule(name, FlattenSamples(module))
        begin = Samples(model.get_submodule(path), config.samples, flips=config.flip_half, shifts=config.shift_pooling)
        model.set_submodule(path, begin)
        return model

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Refuse models with layers after the first mask that fail on several samples or mix them."""
        inputs = federation.probe(_EXAMPLES).inputs
        try:
            outputs = _outputs(model, inputs)
        except Exception as error:  # a layer may raise any exception on an additional dimension
            return f"the layers after its first mask receive (examples, samples, ...), and a layer fails: {error}"
        if outputs.shape != (_EXAMPLES, self.config.samples, *federation.label_shape, federation.classes):
            return f"the model returns {tuple(outputs.shape)}, expected (examples, samples, classes)"
        begin = next(module for module in model.modules() if isinstance(module, Samples))
        handle = begin.register_forward_hook(_with_another_first_sample)
        sample_outputs = _outputs(model, inputs)
        handle.remove()
        if torch.allclose(sample_outputs[:, 1:], outputs[:, 1:], atol=_ROUNDING):
            return None
        return "a layer after its first mask mixes samples"

    def _start(self, model: nn.Module) -> str:
        """Return the name of the first layer with samples."""
        kinds = (nn.Dropout, nn.Flatten, nn.MaxPool2d, nn.AvgPool2d)
        layers = {path: module for path, module in model.named_modules() if isinstance(module, kinds)}
        dropouts = [path for path, module in layers.items() if isinstance(module, nn.Dropout)]
        if not dropouts:
            raise NotApplicable(f"component '{_NAME}': the model has no dropout layer (nn.Dropout).")
        path = dropouts[-1] if self.config.at is None else self.config.at
        if path not in layers:
            raise NotApplicable(
                f"component '{_NAME}': no dropout, flattening or pooling layer is called '{path}'."
                f"{did_you_mean(path, layers)}"
            )
        return path


@torch.no_grad()
def _outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    with record_masks(model, torch.Generator().manual_seed(0)):
        return model(inputs)


def _with_another_first_sample(_layer: nn.Module, _inputs: object, samples: Tensor) -> Tensor:
    return torch.cat([samples[:, :1] + 1.0, samples[:, 1:]], 1)
