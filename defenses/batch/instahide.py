"""instahide: mixes every example with k - 1 others of its batch, and gives every pixel a random sign.

Every batch draws new partners, coefficients and signs. Smaller batches are refused before the first round; a short last
batch mixes its own examples, and a single example only gets signs. Bounds that k coefficients can hardly meet are
refused. The gradient of the last layer gives the mixed labels, and with them the coefficients; then every pixel is a
small problem. With k encodings of k images every pattern of signs has a solution, but few solutions lie in the range of
pixels. Over rounds encodings add up: `instahide-regression`.

Idea: Mixing hides the single images; random signs hide the mixture's values.
Equation: x' = s (l_1 x + l_2 x_2 + ... + l_k x_k), l from Dirichlet(3, 1, ..., 1), each below 0.65, signs s = +-1
    independent for every entry of every example. Labels are mixed with the same coefficients.
Assumes: batches of at least k, a linear last layer. All k images are private; the paper's variant with public images
    needs a data set at the client and is not offered.
Protects: x from an attacker that takes x' for an image. The gradient of x' is sent exactly. No guarantee.
Fails: |x'| undoes the signs; encodings of the same images can be clustered and solved for them (Carlini et al. 2021,
    arXiv 2011.05315).
Source: Huang et al. 2020, arXiv 2010.02772.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from defenses.batch._mixing import mix_examples, refuses_to_mix, uniforms
from fedsim.core.hooks import Defense, HookContext, Place, PublicFederation
from fedsim.core.registry import defense
from fedsim.core.types import Batch, Config, MethodDescription
from fedsim.core.types.effects import MixedExamples

_PRIVATE, _OTHER = 3.0, 1.0
_ROOM = 1.1


def _can_be_drawn(largest: float, images: int) -> bool:
    """Return whether coefficients below the bound are frequent enough for rejection sampling."""
    return largest * images > _ROOM


class InstahideConfig(Config):
    """Settings of InstaHide."""

    images: int = Field(default=4, ge=2, le=16, description="k, images in a mixture, including the example itself")
    largest: float = Field(default=0.65, gt=0, le=1, description="upper bound of every coefficient")

    @model_validator(mode="after")
    def _fits(self) -> InstahideConfig:
        if not _can_be_drawn(self.largest, self.images):
            raise ValueError(f"{self.images} coefficients below {self.largest} can hardly add up to 1: raise `largest`")
        return self


@final
@defense(
    "instahide",
    summary="mixes k examples of a batch and flips signs of pixels",
    tier="baseline",
    paper="2010.02772",
    fidelity="variant",
    deviates="partners come from the batch; public images are not offered",
    paper_steps=(
        ("mixture of k images with bounded coefficients", "Instahide._coefficients"),
        ("random sign per pixel", "Instahide.on_batch"),
        ("public images in the mixture", ""),
    ),
)
class Instahide(Defense[InstahideConfig]):
    """Samples new mixtures and signs for every batch.

    A batch of n < k examples mixes all n; its bound is 2 / n if the bound of the settings is infeasible.
    """

    place: ClassVar[Place] = "batch"
    needs_step: ClassVar[bool] = True

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Refuse batches of fewer than k examples, and models without a linear last layer."""
        return refuses_to_mix(self.config.images, federation, model)

    def on_batch(self, batch: Batch, context: HookContext) -> Batch:
        """Return the encoded batch; its labels are probabilities (B, K)."""
        images = min(self.config.images, len(batch))
        weights = self._weights(len(batch), images, context.generator).to(batch.inputs)
        encoded = mix_examples(batch, weights, context)
        signs = 2.0 * torch.randint(2, batch.inputs.shape, generator=context.generator) - 1.0
        return replace(encoded, inputs=encoded.inputs * signs.to(batch.inputs))

    def adaptive_view(self) -> MethodDescription:
        """Return the number of mixed examples, the bound of their coefficients, and that signs are random."""
        mixed = MixedExamples(self.config.images, has_random_signs=True)
        return MethodDescription("instahide", (mixed,), {"largest": self.config.largest})

    def _weights(self, examples: int, images: int, generator: torch.Generator) -> Tensor:
        """Return each mixture's coefficients over the batch, (B, B); partners are next in a random circular order."""
        order = torch.randperm(examples, generator=generator)
        weights = torch.zeros(examples, examples, dtype=torch.float64)
        for place in range(examples):
            chosen = order[[(place + offset) % examples for offset in range(images)]]
            weights[order[place], chosen] = self._coefficients(images, generator)
        return weights

    def _coefficients(self, images: int, generator: torch.Generator) -> Tensor:
        """Return coefficients below the bound, shape (images,); 1 for a single image."""
        from scipy.special import gammaincinv  # noqa: PLC0415 - importing SciPy takes longer than many a run

        if images == 1:
            return torch.ones(1, dtype=torch.float64)
        shapes = torch.tensor([_PRIVATE] + [_OTHER] * (images - 1), dtype=torch.float64)
        bound = self.config.largest if _can_be_drawn(self.config.largest, images) else 2.0 / images
        while True:
            gammas = torch.as_tensor(gammaincinv(shapes.numpy(), uniforms((images,), generator).numpy()))
            coefficients = gammas / gammas.sum()
            if float(coefficients.max()) < bound:
                return coefficients
