"""Next patch: a model denoises each patch of an image given the previous patches, and so learns to generate patches.

    u uniform in [0, 1) for each image, e ~ N(0, 1);   loss = mean over the pixels of (outputs - e)^2

Outputs are the predicted noise of the patches at time u (Li et al. 2024, arXiv 2406.11838, equation 1). A model with
learned variances also outputs ln v of its squared error in additional channels, with the loss
(ln v + (outputs - e)^2 / v) / 2 times 0.001, which has no gradient in the noise outputs (the weight: Nichol, Dhariwal
2021, arXiv 2102.09672). Times, noise and a random order of patches are hidden draws of a step. Test metric: the same
loss.
"""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.registry import task
from fedsim.core.types import Batch, Draws
from fedsim.core.types.tasks import Model
from fedsim.tasks.core.fitting import lacks_argument
from fedsim.tasks.core.noisy_images import NoisyImageConfig, NoisyImageTask

_VARIANCE_WEIGHT = 1e-3
_NO_PATCHES = (
    "the model predicts no noise of patches, since its forward does not take time, pixel_noise and labels. Choose one "
    'that does, for example model.name = "patch-diffusion"'
)


class NextPatchConfig(NoisyImageConfig):
    """Settings of next patch."""

    classes: bool = Field(default=False, description="whether the class of an image is an input of the model")
    order: Literal["reading", "random"] = Field(
        default="reading", description="in which the model gets patches; random: drawn for each image; as model.order"
    )


@final
@task("next-patch", summary="the noise in each patch of an image, given the earlier patches", paper="2406.11838")
class NextPatch(NoisyImageTask[NextPatchConfig]):
    """Squared error of the noise in patches."""

    def refuses_model(self, model: nn.Module) -> str | None:
        """Return why the model lacks time, noise or required classes, or has another patch order, or None."""
        read = ("time", "pixel_noise", "labels") if self.config.classes else ("time", "pixel_noise")
        if any(lacks_argument(model, name) for name in read):
            return _NO_PATCHES
        order, wanted = getattr(model, "order", "reading"), self.config.order
        if order != wanted:
            return f"task.order is '{wanted}', and the model's patches come in order '{order}'. Set both to the same"
        if self.config.classes and getattr(model, "classes", 1) == 0:
            return "'classes' is true, and the model has no class input. Set model.classes = true, or classes = false"
        return None

    def draw(self, batch: Batch, generator: torch.Generator) -> Draws:
        """Sample the time (B,) and noise of each image, and for a random order the sort keys (B, H, W) of patches."""
        time = torch.rand(len(batch), generator=generator)
        noise = torch.randn(batch.inputs.shape, generator=generator)
        usual = {"time": time.to(batch.inputs.dtype), "noise": noise.to(batch.inputs.dtype)}
        if self.config.order == "reading":
            return usual
        size = (len(batch), *batch.inputs.shape[2:])
        return usual | {"order": torch.rand(size, generator=generator).to(batch.inputs.dtype)}

    def outputs(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        """Run the model on the noisy images; without draws, on clean images at the middle time."""
        given = dict[str, Any](batch.extra_inputs)
        if draws:
            given |= {"time": draws["time"], "pixel_noise": draws["noise"]}
        if "order" in draws:
            given["order"] = draws["order"]
        if self.config.classes:
            given["labels"] = batch.labels
        try:
            return model(batch.inputs, **given)
        except TypeError as error:
            if not any(name in str(error) for name in ("'time'", "'pixel_noise'", "'labels'")):
                raise
            raise FedsimError(f"task 'next-patch': {_NO_PATCHES}.") from error

    def targets(self, batch: Batch, draws: Draws) -> Tensor:
        """Return the noise."""
        return draws["noise"] if draws else torch.zeros_like(batch.inputs)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each image's squared error, plus the variance term if the outputs include variances."""
        channels = targets.shape[1]
        errors, log_errors = (outputs[:, :channels] - targets).square(), outputs[:, channels:]
        if log_errors.shape[1]:
            errors = errors + _VARIANCE_WEIGHT * 0.5 * (log_errors + errors.detach() * (-log_errors).exp())
        return errors.flatten(1).mean(1)
