"""Ceiling of an attacked update: first-order upper bound on the reconstruction quality of any attacker.

The client's computation is replayed in double precision at the ground truth, with its dropout masks, and differentiated
with respect to the examples. Defenses describe their effect on it (`Defense.describe_distortion`). Attacks never
receive any of these values.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.errors import describe_exception
from fedsim.core.types import Reconstruction
from fedsim.questions.attacks import ideal_attacker as ideal
from fedsim.questions.attacks.differentiable_update import DifferentiableUpdate, NotDefinedError, check, sent_of
from fedsim.record import Ceiling
from fedsim.threat.victim import Victim

_MOST_PUBLIC = 2000
_PROBES, _FEWEST, _STEPS = 4, 6, 96
_LEAST = 1e-30  # smallest mean squared error with a PSNR


class MeasuredCeiling(NamedTuple):
    """A ceiling, and the known share of every input entry: shape of the examples, 0 unknown, 1 known."""

    ceiling: Ceiling
    known_share: Tensor | None = None


def ceiling_of(victim: Victim, *, largest: int = ideal.MOST_DENSE, seconds: float | None = None) -> MeasuredCeiling:
    """Compute the ceiling of an update.

    Args:
        victim: the update with its ground truth.
        largest: maximum number of entries for the exact value.
        seconds: time limit; if the exact value takes longer, or if there are more entries, an interval is estimated.
            None: no limit and no estimate, so that the result depends on the update alone.
    """
    entries = victim.examples.inputs.numel() if victim.truth.batches else 0
    try:
        check(victim)
        with seeding.isolate_randomness(0):
            if entries > largest and seconds is None:
                raise NotDefinedError(f"{entries} entries are too many to compute it at once; an audit estimates it")
            sent = sent_of(victim)
            if seconds is None:
                return _exact(victim, sent)
            a_product = _seconds_of(sent)
            is_cheap = entries <= largest and a_product * entries < seconds
            return (
                _exact(victim, sent)
                if is_cheap
                else MeasuredCeiling(_estimate_ceiling(victim, sent, seconds / a_product))
            )
    except NotDefinedError as reason:
        return MeasuredCeiling(Ceiling(inputs=entries, undefined=str(reason)))
    except (RuntimeError, TypeError, NotImplementedError) as error:  # a layer without a second derivative or in float32
        return MeasuredCeiling(
            Ceiling(inputs=entries, undefined=f"not defined for this model: {describe_exception(error)}")
        )


class _Prior(NamedTuple):
    """Prior mean and variance of every entry: statistics of its channel over the training data, public knowledge."""

    mean: Tensor
    variance: Tensor
    square: Tensor  # of the factor from inputs to pixels


def _prior(victim: Victim) -> _Prior:
    dataset, inputs = victim.world.data.dataset, victim.examples.inputs
    images = (dataset.train.inputs if len(dataset.train) else inputs).double()
    channels = [0, *range(2, images.ndim)]
    mean, variance = (
        images.mean(channels, keepdim=True),
        images.var(channels, correction=0, keepdim=True).clamp_min(1e-12),
    )
    std = torch.tensor(dataset.spec.std, dtype=torch.float64).view(1, -1, *(1 for _ in inputs.shape[2:]))
    spread = (statistic.expand(inputs.shape).flatten() for statistic in (mean, variance, std.square()))
    return _Prior(*spread)


def _public(victim: Victim) -> Tensor:
    """Return public examples of the same kind, shape (N, d): of the test set if it has at least two examples."""
    dataset = victim.world.data.dataset
    known = dataset.test if len(dataset.test) > 1 else dataset.train
    return known.inputs[:_MOST_PUBLIC].double().flatten(1)


def _products(sent: DifferentiableUpdate, *masks: Tensor) -> ideal.Products:
    """Return the product with the matrix A of the examples and, if given, the unknown masks."""
    return ideal.products(sent.tensors, [sent.inputs, *masks], sent.noise, sent.spread)


def _seconds_of(sent: DifferentiableUpdate) -> float:
    """Return the duration of a product with A; an earlier, untimed product warms up."""
    times = _products(sent)
    row = torch.ones(1, sent.inputs.numel(), dtype=torch.float64)
    times(row)
    begin = time.perf_counter()
    times(row)
    return time.perf_counter() - begin


def _exact(victim: Victim, sent: DifferentiableUpdate) -> MeasuredCeiling:
    prior = _prior(victim)
    times = _products(sent)
    information = ideal.matrix(times, sent.inputs.numel())
    if not bool(information.isfinite().all()):
        raise NotDefinedError("not defined where a step has no derivative at the truth, as Adam's at a gradient of 0")
    left = ideal.compute_uncertainty(information, prior.variance, times)
    public = _public(victim)
    informed = ideal.left_to_who_knows(information, ideal.root_of(public), times)
    source = seeding.generator(victim.world.scenario.seed, "ideal attacker", victim.entry.round, victim.entry.client)
    mean = public.mean(0).repeat(len(sent.inputs))
    guess = informed.guess(sent.inputs.detach().flatten(), mean, source).view(sent.inputs.shape)
    dataset, reconstruction = victim.world.data.dataset, _reconstruction(guess, victim)
    scored = victim.world.task.score(victim.truth, victim.examples, reconstruction, dataset)
    ceiling = Ceiling(
        psnr=_psnr(float((left.error * prior.square).mean())),
        inputs=len(information),
        rank=left.rank,
        condition=left.condition,
        known_entries=left.known_entries,
        psnr_masks_unknown=_psnr_without_draws(victim, prior),
        psnr_other_clients_known=_others_known(victim, sent, information, times, prior),
        psnr_with_covariance=_psnr(float((informed.error * prior.square).mean())),
        scores=tuple(scored.items),  # pyright: ignore[reportArgumentType] - the items of images are scores
    )
    return MeasuredCeiling(ceiling, (1 - left.error / prior.variance).view(sent.inputs.shape))


def _psnr_without_draws(victim: Victim, prior: _Prior) -> float | None:
    """Return the ceiling with unknown masks; None without dropout or with too many entries."""
    n, masks = len(prior.mean), [mask for step_masks in victim.truth.masks for mask in step_masks]
    if not masks or n + sum(mask.numel() for mask in masks) > ideal.MOST_DENSE:
        return None
    sent = sent_of(victim, moves_masks=True)
    spread = [m.new_full((m.numel(),), rate * (1 - rate)) for m, rate in zip(sent.masks, sent.rates, strict=True)]
    whole = torch.cat([prior.variance, *(part.clamp_min(1e-12) for part in spread)])
    times = _products(sent, *sent.masks)
    left = ideal.compute_uncertainty(ideal.matrix(times, len(whole)), whole, times)
    return _psnr(float((left.error[:n] * prior.square).mean()))


def _others_known(
    victim: Victim, sent: DifferentiableUpdate, information: Tensor, times: ideal.Products, prior: _Prior
) -> float | None:
    """Return the ceiling with the examples of all other clients known; None for an update of a single client."""
    if len(victim.entry.clients) < 2:  # noqa: PLR2004 - a single client has no others
        return None
    owner = sent.owners.repeat_interleave(sent.inputs[0].numel())
    error = torch.zeros_like(prior.variance)
    for number in owner.unique():
        entries = owner == number
        part, variance = information[entries][:, entries], prior.variance[entries]
        error[entries] = ideal.compute_uncertainty(part, variance, ideal.restrict_products(times, entries)).error
    return _psnr(float((error * prior.square).mean()))


def _estimate_ceiling(victim: Victim, sent: DifferentiableUpdate, affordable: float) -> Ceiling:
    prior, steps = _prior(victim), int(affordable / _PROBES)
    if steps < _FEWEST:
        raise NotDefinedError("its time was too short for an estimate")
    source = seeding.generator(victim.world.scenario.seed, "ideal attacker", victim.entry.round, victim.entry.client)
    times = _products(sent)
    estimate = ideal.estimate_error(times, prior.variance, source, probes=_PROBES, steps=min(steps, _STEPS))
    scale = float((prior.variance * prior.square).mean() / prior.variance.mean())
    return Ceiling(
        psnr_low=_psnr(estimate.high * scale), psnr_high=_psnr(estimate.low * scale), inputs=sent.inputs.numel()
    )


def _psnr(error: float) -> float:
    return -10 * math.log10(max(error, _LEAST))


def _reconstruction(guess: Tensor, victim: Victim) -> Reconstruction:
    labels = victim.examples.labels
    are_shares = victim.world.task.label_kind == "class" and labels.is_floating_point()
    return Reconstruction.of(guess.float(), labels.argmax(-1) if are_shares else labels)
