"""Denoising: a model removes noise from images at a random level in each, and so learns to generate such images.

    ln s ~ N(m, w^2), x = y + s e, e ~ N(0, 1);   loss = (s^2 + d^2) / (s d)^2 * mean over the pixels of (D(x, s) - y)^2

then the mean over the examples (Karras et al. 2022, arXiv 2206.00364, table 1). With this weight the initial loss of a
model with EDM's preconditioning is near 1 at every level. Images are normalised, so d = 1, and m is larger by ln 2 than
for the d = 0.5 of the paper. Level s and noise e are hidden draws of a step. Classes may be a condition, and are
dropped for some images, for classifier-free guidance. Test metric: the same loss.
"""

from __future__ import annotations

from typing import Any, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.registry import task
from fedsim.core.types import Batch, Draws
from fedsim.core.types.tasks import Model
from fedsim.tasks.core.fitting import lacks_argument
from fedsim.tasks.core.noisy_images import NoisyImageConfig, NoisyImageTask

_NO_LEVELS = (
    "the model predicts no noise, since its forward has no argument 'noise'. Choose a denoiser, for example "
    'model.name = "edm-unet"'
)
_NO_CLASSES = (
    "classes is on, and the model has no argument 'labels'. Choose a class-conditional model, for example "
    'model.name = "edm-unet" with model.classes = true, or set classes = false'
)


class DenoisingConfig(NoisyImageConfig):
    """Settings of denoising."""

    log_mean: float = Field(default=-0.5, description="m, the mean of ln s")
    log_std: float = Field(default=1.2, gt=0, description="w, the standard deviation of ln s")
    data_std: float = Field(default=1.0, gt=0, description="d, the standard deviation of normalised images")
    classes: bool = Field(default=False, description="whether the class of an image is an input of the model")
    class_dropout: float = Field(default=0.1, ge=0, le=1, description="for classes: share of the images without class")


@final
@task("denoising", summary="images without their noise, at every noise level", paper="2206.00364")
class Denoising(NoisyImageTask[DenoisingConfig]):
    """Weighted squared error of denoised images."""

    def refuses_model(self, model: nn.Module) -> str | None:
        """Return why the model has no noise level, or no classes as required, or None."""
        if lacks_argument(model, "noise"):
            return _NO_LEVELS
        if not self.config.classes:
            return None
        if lacks_argument(model, "labels"):
            return _NO_CLASSES
        if getattr(model, "classes", 1) == 0:
            return "'classes' is true, and the model has no class input. Set model.classes = true, or classes = false"
        return None

    def draw(self, batch: Batch, generator: torch.Generator) -> Draws:
        """Sample the noise level (B,) and the noise of each image, and which images lose their class (B,)."""
        config, count = self.config, len(batch)
        level = (config.log_mean + config.log_std * torch.randn(count, generator=generator)).exp()
        draws = {"level": level.to(batch.inputs.dtype)}
        draws["noise"] = torch.randn(batch.inputs.shape, generator=generator).to(batch.inputs.dtype)
        if config.classes:
            draws["unlabelled"] = torch.rand(count, generator=generator) < config.class_dropout
        return draws

    def outputs(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        """Run the model on the noisy images; without draws, on clean images at the level exp(m)."""
        x, given = batch.inputs, dict[str, Any](batch.extra_inputs)
        given["noise"] = self._level(batch, draws)
        if "noise" in draws:
            x = x + _align_to_images(draws["level"], x) * draws["noise"]
        if self.config.classes:
            given["labels"] = batch.labels.masked_fill(draws["unlabelled"], -1) if draws else batch.labels
        try:
            return model(x, **given)
        except TypeError as error:
            raise _refusal(error) from error

    def targets(self, batch: Batch, draws: Draws) -> Tensor:
        """Return weight and pixels of each image, shape (B, 1 + pixels)."""
        level, std = self._level(batch, draws), self.config.data_std
        weight = (level.square() + std**2) / (level * std).square()
        return torch.cat((weight[:, None], batch.inputs.flatten(1)), 1)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each image's weighted squared error."""
        return targets[:, 0] * (outputs.flatten(1) - targets[:, 1:]).square().mean(1)

    def _level(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the noise level of each image, shape (B,)."""
        known = draws.get("level")
        middle = torch.tensor(self.config.log_mean, dtype=batch.inputs.dtype).exp()
        return middle.to(batch.inputs.device).expand(len(batch)) if known is None else known


def _align_to_images(numbers: Tensor, like: Tensor) -> Tensor:
    """Return numbers (B,) in a shape that broadcasts over images."""
    return numbers.view(-1, *[1] * (like.ndim - 1))


def _refusal(error: TypeError) -> Exception:
    if "'noise'" in str(error):
        return FedsimError(f"task 'denoising': {_NO_LEVELS}.")
    if "'labels'" in str(error):
        return FedsimError(f"task 'denoising': {_NO_CLASSES}.")
    return error
