"""Accuracy of estimated dropout masks, over the entries that influence the gradient.

Other entries cannot be inferred from an update, so they are excluded.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.nets.masks import inject_masks
from fedsim.core.seeding import generator
from fedsim.core.types import Batch, Draws, DropoutSite, Loss, Masks
from fedsim.core.types.tasks import Answer, plain_answer
from fedsim.record import MaskScore


def identifiable(
    model: nn.Module,
    batch: Batch,
    sites: Sequence[DropoutSite],
    masks: Masks,
    loss: Loss,
    answer: Answer = plain_answer,
    draws: Draws | None = None,
) -> tuple[Tensor, ...]:
    """Return the mask entries that influence some parameter's gradient at the truth.

    The derivative of <v, g> with respect to the masks, for the batch's gradient g and one random direction v, is
    exactly zero at an entry without influence and almost surely nonzero elsewhere. Entries without influence, e.g.
    after an inactive ReLU or at unused tokens, cannot be estimated better than by guessing.

    Args:
        model: with the weights at which the update was computed, in the client's mode; restored afterwards.
        batch: the true batch.
        sites: dropout sites with their true rates.
        masks: the true masks, in the order of `sites`.
        loss: ``loss(outputs, labels) -> scalar``.
        answer: `Task.answer` of the clients' task.
        draws: draws of the step; default none.

    Returns:
        A boolean tensor per site, of its mask's shape.
    """
    parameters = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters() if p.requires_grad}
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    leaves = tuple(mask.detach().clone().requires_grad_() for mask in masks)
    with torch.enable_grad(), inject_masks(sites, leaves):
        run = partial(functional_call, model, {**parameters, **buffers})
        outputs, targets = answer(lambda *inputs, **given: run(inputs, given), batch, draws or {})
        gradient = torch.autograd.grad(
            loss(outputs, targets), list(parameters.values()), create_graph=True, materialize_grads=True
        )
    source = generator(0, "identifiable")
    directions = [torch.randn(g.shape, generator=source, dtype=g.dtype).to(g.device) for g in gradient]
    projection = torch.stack([(g * v).sum() for g, v in zip(gradient, directions, strict=True)]).sum()
    if not projection.requires_grad:
        return tuple(torch.zeros_like(mask, dtype=torch.bool) for mask in masks)
    influence = torch.autograd.grad(projection, leaves, materialize_grads=True)
    return tuple(i != 0 for i in influence)


def score_masks(
    sites: Sequence[DropoutSite],
    estimates: Masks,
    masks: Masks,
    visible: Sequence[Tensor],
    order: Tensor,
) -> tuple[MaskScore, ...]:
    """Compare estimated with true masks, site by site, over identifiable entries only.

    A non-finite estimate counts as wrong.

    Args:
        sites: dropout sites.
        estimates: values in [0, 1] (1 is kept), in the order of `sites` and of the attacker's guesses.
        masks: the true masks.
        visible: result of `identifiable`.
        order: shape (B,), the guess matched to each original, from `fedsim.metrics.image.score_items`: masks belong to
            examples, so they are reordered with them.

    Raises:
        FedsimError: a site has no estimate, or an estimate of another shape.
    """
    if len(estimates) != len(sites):
        raise FedsimError(
            f"the attack estimated {len(estimates)} masks, expected {len(sites)}, a mask per dropout site."
        )
    return tuple(
        _score(site.name, _reorder(site.name, estimate.detach(), mask, order), mask, seen)
        for site, estimate, mask, seen in zip(sites, estimates, masks, visible, strict=True)
    )


@registry.metric(
    "mask_accuracy",
    title="masks right",
    summary="share of the entries of dropout masks that were estimated right, where a gradient depends on them",
    over="update",
    form="percent",
    digits=1,
    statistics={"mask_accuracy": "mean"},
)
def mask_accuracy(masks: Sequence[MaskScore]) -> float | None:
    """Return the share of identifiable mask entries estimated correctly, over all sites, or None without any."""
    scored = [(mask.accuracy, mask.identifiable) for mask in masks if mask.accuracy is not None]
    units = sum(count for _, count in scored)
    return sum(accuracy * count for accuracy, count in scored) / units if units else None


def _reorder(site: str, estimate: Tensor, mask: Tensor, order: Tensor) -> Tensor:
    """Reorder examples; attention may fold its heads into the batch dimension, so an example may have several rows."""
    rows = mask.shape[0] // len(order)
    fits = mask.shape[0] % len(order) == 0 and estimate.shape[0] % rows == 0 and estimate.shape[1:] == mask.shape[1:]
    if not fits or estimate.shape[0] < mask.shape[0]:
        raise FedsimError(
            f"the estimated mask of '{site}' has shape {tuple(estimate.shape)}, expected {tuple(mask.shape)}."
        )
    examples = estimate.reshape(-1, rows, *mask.shape[1:])
    return examples[order.to(estimate.device)].reshape(mask.shape)


def _score(site: str, estimate: Tensor, mask: Tensor, seen: Tensor) -> MaskScore:
    kept = mask[seen] > 0.5  # noqa: PLR2004 - halfway between dropped and kept
    values = estimate[seen].double()
    values = torch.where(values.isfinite(), values, 1.0 - kept.double())
    accuracy = float(((values > 0.5) == kept).double().mean()) if len(kept) else None  # noqa: PLR2004
    return MaskScore(
        site=site, units=mask.numel(), identifiable=len(kept), accuracy=accuracy, auc=_rank_auc(values, kept)
    )


def _rank_auc(values: Tensor, kept: Tensor) -> float | None:
    """Return the probability that a kept unit is estimated above a dropped one, ties counted as one half."""
    positives, negatives = int(kept.sum()), int((~kept).sum())
    if not positives or not negatives:
        return None
    from scipy.stats import rankdata  # noqa: PLC0415 - a run without attacks need not wait for SciPy

    ranks = torch.as_tensor(rankdata(values.cpu().numpy()))
    wins = float(ranks[kept.cpu()].sum()) - positives * (positives + 1) / 2
    return wins / (positives * negatives)
