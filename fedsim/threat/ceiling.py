"""The ceiling of an attacked update: how well anybody could know the examples behind it, to first order.

The client's computation is repeated in double precision at the truth, with its dropout masks, and differentiated by the
examples. Defenses say what they do to it (`Defense.blur`). Nothing of this reaches an attacker.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.errors import describe_exception
from fedsim.core.masks import inject_masks
from fedsim.core.showing import Showing
from fedsim.core.types import Batch, Reconstruction, Tensors
from fedsim.metrics import ideal_attacker as ideal
from fedsim.record import Ceiling
from fedsim.threat.victim import Victim

_MOST_PUBLIC = 2000
_PROBES, _FEWEST, _STEPS = 4, 6, 96
_LEAST = 1e-30  # mean squared error that has a PSNR


class Found(NamedTuple):
    """A ceiling, and how much is known of every entry: shape of the examples, 0 for nothing, 1 for all."""

    ceiling: Ceiling
    known: Tensor | None = None


class _NotDefinedError(Exception):
    pass


def ceiling_of(victim: Victim, *, largest: int = ideal.MOST_DENSE, seconds: float | None = None) -> Found:
    """Return the ceiling of an update.

    Args:
        victim: the update beside its truth.
        largest: number of entries up to which the exact figure is computed.
        seconds: time for it; where the exact figure takes longer, or there are more entries, an interval is estimated.
            Absent: any time, and no estimates, so that the result depends on the update alone.
    """
    entries = victim.truth.batches[0].inputs.numel() if victim.truth.batches else 0
    try:
        _check(victim)
        with seeding.isolate_randomness(0):
            if entries > largest and seconds is None:
                raise _NotDefinedError(f"{entries} entries are too many to compute it at once; an audit estimates it")
            if seconds is None:
                return _exact(victim, _Client(victim))
            client = _Client(victim)
            a_product = _seconds_of(client)
            is_cheap = entries <= largest and a_product * entries < seconds
            return _exact(victim, client) if is_cheap else Found(_estimated(victim, client, seconds / a_product))
    except _NotDefinedError as reason:
        return Found(Ceiling(inputs=entries, undefined=str(reason)))
    except (RuntimeError, TypeError, NotImplementedError) as error:  # a layer without a second derivative or in float32
        return Found(Ceiling(inputs=entries, undefined=f"not defined for this model: {describe_exception(error)}"))


def _check(victim: Victim) -> None:
    """Raise where what is sent is no differentiable function of the client's examples."""
    truth, world = victim.truth, victim.world
    if len(truth.batches) != 1 or victim.entry.update.kind != "gradient":
        raise _NotDefinedError("not defined for updates of local steps")
    if not len(truth.batches[0]):
        raise _NotDefinedError("there is no example behind the update")
    if not truth.batches[0].inputs.is_floating_point():
        raise _NotDefinedError("not defined for tokens, which have no derivative")
    if not torch.equal(truth.batches[0].inputs, truth.private[0].inputs):
        raise _NotDefinedError("not defined where a client trains on other examples than it owns")
    if world.stack.loss_terms:
        raise _NotDefinedError("not defined with a term of the loss that a component adds")
    if victim.entry.clients and world.stack.defenses:
        raise _NotDefinedError("not defined for the sum of defended clients")


class _Client:
    """The client's step as a differentiable function: what is sent, the inputs, the masks, and the noise."""

    def __init__(self, victim: Victim, *, moves_masks: bool = False) -> None:
        truth, batch = victim.truth, victim.truth.batches[0]
        self._victim = victim
        self.model = copy.deepcopy(victim.model).double()
        self.inputs = batch.inputs.detach().double().requires_grad_()
        self.masks = tuple(m.detach().double().requires_grad_(moves_masks) for m in truth.masks[0])
        given = {n: g.double() if g.is_floating_point() else g for n, g in batch.given.items()}
        labels = batch.labels.double() if batch.labels.is_floating_point() else batch.labels
        self.batch = Batch(self.inputs, labels, given)
        tensors, noises, rounding = self._sent()
        self.sent = [t for t in tensors.values() if t.requires_grad]
        names = [name for name, t in tensors.items() if t.requires_grad]
        self.noise = [
            torch.stack([rounding[n].square(), *(own[n].detach().square() for own in noises)]).sum(0).sqrt()
            for n in names
        ]
        if not self.sent:
            raise _NotDefinedError("what is sent does not depend on the examples")

    def _sent(self) -> tuple[Tensors, list[Tensors], Tensors]:
        """Return what is sent without noise, the noise of every defense, and that of rounding."""
        world, noises = self._victim.world, list[Tensors]()
        blurs = [(own, own.blur(world.facts.rules, self._victim.entry.update.tensors)) for own in world.stack.defenses]
        unknown = [own.name for own, blur in blurs if blur is None]
        if unknown:
            raise _NotDefinedError(f"not defined for {' and '.join(unknown)}")
        found = [blur for _, blur in blurs if blur is not None]
        by_example = any(blur.of_examples for blur in found)
        tensors = self._gradient(by_example=by_example)
        plain = {name: (t.mean(0) if by_example else t).detach() for name, t in tensors.items()}
        for blur in found:
            change = blur.of_examples or blur.change
            tensors = tensors if change is None else change(tensors)
            noise = {} if blur.noise is None else blur.noise(tensors)
            if noise is None:
                raise _NotDefinedError("not defined for rounding to steps wider than the spread of the entries")
            noises += [noise] if noise else []
        return tensors, noises, _rounding(plain, tensors)

    def _gradient(self, *, by_example: bool) -> dict[str, Tensor]:
        """Return the gradient of the mean loss, or that of each example, with its graph."""
        victim, world = self._victim, self._victim.world
        parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        draws: Mapping[str, Tensor] = victim.truth.draws[0] if victim.truth.draws else {}
        with inject_masks(victim.sites, self.masks), Showing(draws):
            outputs, targets = world.task.answer(self.model, self.batch, draws)
        if not by_example:
            return _gradient(world.stack.loss(victim.entry.round)(outputs, targets), parameters)
        each = world.task.losses(outputs, targets)
        gradients = [_gradient(loss, parameters) for loss in each]
        return {name: torch.stack([own[name] for own in gradients]) for name in parameters}


def _rounding(plain: Tensors, sent: Tensors) -> dict[str, Tensor]:
    """Return the rounding noise of the gradient, as scaled by clipping: what is left out rounds nothing better."""
    before = torch.cat([tensor.flatten() for tensor in plain.values()])
    after = torch.cat([sent[name].detach().flatten() for name in plain])
    both = (before != 0) & (after != 0)
    factor = (after[both] / before[both]).abs().median() if bool(both.any()) else 1.0
    return {name: factor * noise for name, noise in ideal.rounding_noise(plain).items()}


def _gradient(loss: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(parameters.values()), create_graph=True, materialize_grads=True)
    return dict(zip(parameters, found, strict=True))


class _Prior(NamedTuple):
    """Mean and variance of every entry: those of its channel over the client's data, which is public knowledge."""

    mean: Tensor
    variance: Tensor
    square: Tensor  # of the factor from inputs to pixels


def _prior(victim: Victim) -> _Prior:
    dataset, inputs = victim.world.data.dataset, victim.truth.batches[0].inputs
    own = (dataset.train.inputs if len(dataset.train) else inputs).double()
    channels = [0, *range(2, own.ndim)]
    mean, variance = own.mean(channels, keepdim=True), own.var(channels, correction=0, keepdim=True).clamp_min(1e-12)
    std = torch.tensor(dataset.spec.std, dtype=torch.float64).view(1, -1, *(1 for _ in inputs.shape[2:]))
    spread = (own.expand(inputs.shape).flatten() for own in (mean, variance, std.square()))
    return _Prior(*spread)


def _public(victim: Victim) -> Tensor:
    """Return examples of the same kind that an attacker may own, shape (N, d): of the test set, where there is one."""
    dataset = victim.world.data.dataset
    known = dataset.test if len(dataset.test) > 1 else dataset.train
    return known.inputs[:_MOST_PUBLIC].double().flatten(1)


def _seconds_of(client: _Client) -> float:
    """Return the time of one product with the matrix A, the second of two."""
    times = ideal.products(client.sent, [client.inputs], client.noise)
    row = torch.ones(1, client.inputs.numel(), dtype=torch.float64)
    times(row)
    begin = time.perf_counter()
    times(row)
    return time.perf_counter() - begin


def _exact(victim: Victim, client: _Client) -> Found:
    prior = _prior(victim)
    n = client.inputs.numel()
    information = ideal.matrix(ideal.products(client.sent, [client.inputs], client.noise), n)
    left = ideal.left(information, prior.variance)
    public = _public(victim)
    informed = ideal.left_to_who_knows(information, ideal.root_of(public))
    source = seeding.generator(victim.world.scenario.seed, "ideal attacker", victim.entry.round, victim.entry.client)
    mean = public.mean(0).repeat(len(client.inputs))
    guess = informed.guess(client.inputs.detach().flatten(), mean, source).view(client.inputs.shape)
    dataset, found = victim.world.data.dataset, _reconstruction(guess, victim)
    scored = victim.world.task.score(victim.truth, victim.examples, found, dataset)
    ceiling = Ceiling(
        psnr=_psnr(float((left.error * prior.square).mean())),
        inputs=n,
        rank=left.rank,
        condition=left.condition,
        known=left.known,
        untold=_untold(victim, prior),
        informed=_psnr(float((informed.error * prior.square).mean())),
        scores=tuple(scored.items),  # pyright: ignore[reportArgumentType] - the items of images are scores
    )
    return Found(ceiling, (1 - left.error / prior.variance).view(client.inputs.shape))


def _untold(victim: Victim, prior: _Prior) -> float | None:
    """Return the ceiling of who is not told the masks; None without dropout, and where there are too many entries."""
    masks = victim.truth.masks[0]
    n = len(prior.mean)
    if not masks or n + sum(mask.numel() for mask in masks) > ideal.MOST_DENSE:
        return None
    client = _Client(victim, moves_masks=True)
    inputs = [client.inputs, *client.masks]
    spread = [m.new_full((m.numel(),), s.rate * (1 - s.rate)) for m, s in zip(client.masks, victim.sites, strict=True)]
    whole = torch.cat([prior.variance, *(own.clamp_min(1e-12) for own in spread)])
    left = ideal.left(ideal.matrix(ideal.products(client.sent, inputs, client.noise), len(whole)), whole)
    return _psnr(float((left.error[:n] * prior.square).mean()))


def _estimated(victim: Victim, client: _Client, affordable: float) -> Ceiling:
    prior, steps = _prior(victim), int(affordable / _PROBES)
    if steps < _FEWEST:
        raise _NotDefinedError("its time was too short for an estimate")
    source = seeding.generator(victim.world.scenario.seed, "ideal attacker", victim.entry.round, victim.entry.client)
    times = ideal.products(client.sent, [client.inputs], client.noise)
    found = ideal.estimated(times, prior.variance, source, probes=_PROBES, steps=min(steps, _STEPS))
    scale = float((prior.variance * prior.square).mean() / prior.variance.mean())
    return Ceiling(psnr_low=_psnr(found.high * scale), psnr_high=_psnr(found.low * scale), inputs=client.inputs.numel())


def _psnr(error: float) -> float:
    return -10 * math.log10(max(error, _LEAST))


def _reconstruction(guess: Tensor, victim: Victim) -> Reconstruction:
    batch = victim.truth.batches[0]
    labels = batch.labels if not batch.labels.is_floating_point() else batch.labels.argmax(-1)
    return Reconstruction.of(guess.float(), labels)
