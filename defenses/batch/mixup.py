"""mixup: mixes every example and its label with another example of the batch.

Labels become probabilities (B, K); K is the number of outputs of the last linear layer. Small alpha mixes little.
Batches of one are refused before the first round. A permutation may leave examples unmixed: of batches of two, half are
not mixed at all. `mixup-inversion` searches for l and the pairing; `auto` with knowledge of the defense infers the
mixed labels from the last layer's gradient and solves the recovered mixtures for the images.

Idea: The model trains on blends of two images, so a reconstruction of the trained batch shows blends.
Equation: x' = l x + (1 - l) x_p, labels likewise; one l from Beta(a, a) per batch, partners p by a random permutation.
Assumes: batches of at least two, a linear last layer (it gives the number of classes).
Protects: x from an attacker that mistakes x' for x. MixUp is an augmentation, not made for privacy. No guarantee.
Fails: the gradient of x' is sent exactly. An attacker that knows l and p, or searches for them, solves a linear system
    for x, unless l is 1/2 in a swapped pair.
Source: Zhang et al. 2018, arXiv 1710.09412.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field
from torch import nn

from defenses.batch._mixing import mix_examples, refuses_to_mix, uniforms
from fedsim.core.hooks import Defense, HookContext, Place, PublicFederation
from fedsim.core.registry import defense
from fedsim.core.types import Batch, Config, MethodDescription
from fedsim.core.types.effects import MixedExamples


class MixupConfig(Config):
    """Settings of MixUp."""

    alpha: float = Field(default=1.0, gt=0, le=100, description="both parameters a of the Beta distribution")


@final
@defense(
    "mixup",
    summary="mixes every example with another example of its batch",
    tier="baseline",
    paper="1710.09412",
    fidelity="reproduction",
    paper_steps=(
        ("pairs by a random permutation, one weight per batch", "Mixup.on_batch"),
        ("weight from a Beta law", "Mixup.on_batch"),
        ("labels mixed with the same weight", "Mixup.on_batch"),
    ),
)
class Mixup(Defense[MixupConfig]):
    """Mixes inputs and labels with one weight per batch."""

    place: ClassVar[Place] = "batch"
    needs_step: ClassVar[bool] = True

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Refuse batches of a single example, and models without a linear last layer."""
        return refuses_to_mix(2, federation, model)

    def on_batch(self, batch: Batch, context: HookContext) -> Batch:
        """Return the mixed batch; its labels are probabilities (B, K)."""
        from scipy.special import betaincinv  # noqa: PLC0415 - importing SciPy takes longer than many a run

        alpha = self.config.alpha
        share = torch.as_tensor(betaincinv(alpha, alpha, uniforms((1,), context.generator).numpy())).to(batch.inputs)
        identity = torch.eye(len(batch), dtype=batch.inputs.dtype)
        partners = torch.randperm(len(batch), generator=context.generator)
        return mix_examples(batch, share * identity + (1.0 - share) * identity[partners], context)

    def adaptive_view(self) -> MethodDescription:
        """Return the number of mixed examples, and the distribution of the weight."""
        return MethodDescription("mixup", (MixedExamples(2),), {"alpha": self.config.alpha})
