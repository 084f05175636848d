"""Multi-sample dropout: M masks on the same features, one loss each, L = 1/M sum_m CE(g(h z_m / (1 - p)), y).

Paper: Inoue 2019, arXiv 1905.09788. From one layer onward a training pass carries M samples of every example through
the same weights; losses are averaged, and so are gradients. M = 1 is plain dropout. In evaluation nothing is repeated,
and the weights have the names and shapes of the plain model's.
What it may leak: the gradient comes nearer to that without dropout, like 1 / sqrt(M), so an attacker who ignores masks
gains; one who estimates them has M times as many to find.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.layer._samples import FlattenSamples, Pooling, Samples
from fedsim.core.errors import NotApplicable, nearest
from fedsim.core.hooks import IMAGES_AND_TEXT, Layer, Rules
from fedsim.core.masks import recorded_masks
from fedsim.core.registry import component
from fedsim.core.types import Config, Modality

_NAME = "multi-sample-dropout"
_EXAMPLES = 2
_ROUNDING = 1e-4


class MultiSampleDropoutConfig(Config):
    """Settings of multi-sample dropout."""

    samples: int = Field(default=8, ge=1, description="masks of an example in a step, M")
    at: str | None = Field(
        default=None,
        description="the dropout, flattening or pooling layer from which on samples differ; the last dropout if absent",
    )
    flip_half: bool = Field(default=False, description="mirror the feature maps of every second sample")
    shift_pooling: bool = Field(default=False, description="pool each sample's maps behind another shift by zeros")


@final
@component(_NAME, summary="several dropout masks a step on the same features", paper="1905.09788")
class MultiSampleDropout(Layer[MultiSampleDropoutConfig]):
    """Repeats the last layers of a model, in training, for M samples of every example: logits (B, M, K)."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return `model`, changed.

        Raises:
            NotApplicable: there is no dropout layer, or no layer of that name to begin at.
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

    def refuses(self, rules: Rules, model: nn.Module) -> str | None:
        """Return why the layers behind the first mask cannot carry several samples of an example."""
        inputs = rules.probe(_EXAMPLES).inputs
        try:
            outputs = _outputs(model, inputs)
        except Exception as error:  # a foreign layer may raise anything when it gets one dimension more
            return f"the layers behind its first mask get (examples, samples, ...), and one says: {error}"
        if outputs.shape != (_EXAMPLES, self.config.samples, *rules.label_shape, rules.classes):
            return f"the model returns {tuple(outputs.shape)}, expected (examples, samples, classes)"
        begin = next(module for module in model.modules() if isinstance(module, Samples))
        handle = begin.register_forward_hook(_with_another_first_sample)
        others = _outputs(model, inputs)
        handle.remove()
        if torch.allclose(others[:, 1:], outputs[:, 1:], atol=_ROUNDING):
            return None
        return "a layer behind its first mask mixes samples"

    def _start(self, model: nn.Module) -> str:
        """Return the path of the layer that the samples begin at."""
        kinds = (nn.Dropout, nn.Flatten, nn.MaxPool2d, nn.AvgPool2d)
        layers = {path: module for path, module in model.named_modules() if isinstance(module, kinds)}
        dropouts = [path for path, module in layers.items() if isinstance(module, nn.Dropout)]
        if not dropouts:
            raise NotApplicable(f"component '{_NAME}': the model has no dropout layer (nn.Dropout).")
        path = dropouts[-1] if self.config.at is None else self.config.at
        if path not in layers:
            raise NotApplicable(
                f"component '{_NAME}': no dropout, flattening or pooling layer is called '{path}'."
                f"{nearest(path, layers)}"
            )
        return path


@torch.no_grad()
def _outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    with recorded_masks(model, torch.Generator().manual_seed(0)):
        return model(inputs)


def _with_another_first_sample(_layer: nn.Module, _inputs: object, several: Tensor) -> Tensor:
    return torch.cat([several[:, :1] + 1.0, several[:, 1:]], 1)
