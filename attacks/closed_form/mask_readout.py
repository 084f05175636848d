"""mask-readout: recover the dropout masks of a single example from zeros of its gradient, without search or images.

A dense network reveals all masks; a vision transformer reveals the embedding's mask and, in its last block, the masks
of the class token. The setting `read_out` of `dropout-inversion` fixes the masks recovered here.

Idea: output and gradient of a dropped unit are zero. So its column is zero in the gradient of the next layer, its row
    in the layer before, its entry in a position embedding added there. Trials on the model show the correspondence.
Equation: h_l = m_l * a_l / (1 - p) makes column j zero in dL/dW_{l+1} = delta_{l+1} h_l^T where (m_l)_j = 0.
Assumes: honest-but-curious server, an exact gradient of a single example; the rates need not be known.
Recovers: masks; unknown entries are 1 - p (1 if the rate is withheld). No images. With ReLU a zero means dropped or
    inactive.
Fails: several examples; masks between tokens, over which weight gradients sum; noise, pruning and quantisation, which
    raise the rank above one: then no mask is recovered.
Source: the masks of the Dropout Inversion Attack, Scheliga, Maeder, Seeland 2023, arXiv 2208.06163.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from attacks.core.mask_readout_rules import read_masks
from attacks.core.outlooks import outlook_of
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import no_examples
from fedsim.core.hooks import Attack, CostEstimate, Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Config, Masks, Observation, OnStep, Reconstruction, Step


@final
@attack(
    "mask-readout",
    summary="dropout masks of a single example, from zeros of its gradient",
    tier="core",
    related="2208.06163",
)
class MaskReadout(Attack[Config]):
    """Recovers masks, and returns no images."""

    effort: ClassVar[Effort] = "algebra"
    example: ClassVar[Tables] = {"federation": {"batch_size": 1}}

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse models without dropout, several steps and several examples."""
        if not observation.sites:
            return "the model has no dropout, so there are no masks"
        if (observation.batch_size or 1) > 1:
            return (
                f"a zero of the gradient shows a unit dropped in all {observation.batch_size} examples; the "
                "attack needs a single example"
            )
        return one_gradient_only(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect trials of the model, and no exact answer."""
        return outlook_of(observation, 15.0, 0.01, "the result is masks, no inputs")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Recover the masks that zeros of the gradient show."""
        masks = _whole(observation, read_masks(observation))
        diagnostics = _facts(masks)
        unread = 1.0 - diagnostics["entries read"]
        on_step(Step(0, 1, 1, unread, unread, no_examples(observation)))
        return Reconstruction.of(
            inputs=no_examples(observation),
            masks=tuple(
                mask.nan_to_num(nan=1.0 - site.rate) for mask, site in zip(masks, observation.sites, strict=True)
            ),
            objective=unread,
            iterations=1,
            stop_reason="masks read off" if unread < 1.0 else "gave up: no zeros of this gradient can be trusted",
            notes=(
                "only masks are read, no image",
                *(_note(site.name, mask) for site, mask in zip(observation.sites, masks, strict=True)),
                "objective: share of mask entries not read",
            ),
            diagnostics=diagnostics,
        )


def _whole(observation: Observation, read: dict[int, Tensor]) -> Masks:
    """Return one mask per site, NaN for unknown entries."""
    return tuple(
        read[index] if index in read else torch.full(site.shape, torch.nan)
        for index, site in enumerate(observation.sites)
    )


def _facts(masks: Masks) -> dict[str, float]:
    """Return the shares of sites recovered in full or in part, of recovered entries, and of zeros among these."""
    entries = torch.cat([mask.flatten() for mask in masks])
    read = entries[~entries.isnan()]
    touched = sum(1.0 for mask in masks if not bool(mask.isnan().all()))
    diagnostics = {"sites read": touched / len(masks), "entries read": len(read) / len(entries)}
    return {**diagnostics, "zero share": float(read.eq(0).double().mean())} if len(read) else diagnostics


def _note(site: str, mask: Tensor) -> str:
    return f"'{site}': {int((~mask.isnan()).sum())} of {mask.numel()} entries read"
