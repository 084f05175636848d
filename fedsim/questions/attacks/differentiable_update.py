"""The received update as a differentiable function of the clients' examples.

The local training of every client behind an update is replayed in double precision at the ground truth, with its
batches, dropout masks, optimizer and defenses (`Defense.describe_distortion`). Attacks never receive any of these
values.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedsim.core.examples import example_indices
from fedsim.core.hooks import Distortion
from fedsim.core.nets.masks import inject_masks
from fedsim.core.nets.step_draws import Showing
from fedsim.core.types import Batch, Draws, DropoutSite, Masks, Tensors, Truth, Update
from fedsim.federation.secure_client import secure_settings
from fedsim.questions.attacks import ideal_attacker as ideal
from fedsim.scenario.world import World
from fedsim.threat.replay import repeat
from fedsim.threat.victim import Victim

Noise = dict[str, Tensor]  # standard deviation of every entry
Spread = dict[str, Tensor]  # k columns of a covariance, each (k, *shape)
_MOST = 100_000_000  # entries of all covariance columns


class NotDefinedError(Exception):
    """The update is not a differentiable function of the client's examples."""


class DifferentiableUpdate(NamedTuple):
    """The received update and its noise.

    Attributes:
        inputs: all distinct examples, a leaf, shape (N, *shape).
        masks: dropout masks of all clients and steps, leaves if they are variables.
        rates: dropout rate of each mask.
        tensors: received tensors with their autograd graph.
        noise: standard deviation of the noise on every received entry.
        spread: columns of the covariance of correlated noise, each (k, *shape).
        owners: index of each example's client among the participants, shape (N,).
    """

    inputs: Tensor
    masks: tuple[Tensor, ...]
    rates: tuple[float, ...]
    tensors: tuple[Tensor, ...]
    noise: tuple[Tensor, ...]
    spread: tuple[Tensor, ...]
    owners: Tensor


class _Step(NamedTuple):
    """A local step; `places` holds the index of each batch entry among the distinct examples."""

    batch: Batch
    places: Tensor
    masks: Masks
    sites: tuple[DropoutSite, ...]
    draws: Draws


class _Share(NamedTuple):
    """A client's update with its local steps and aggregation weight."""

    update: Update
    steps: tuple[_Step, ...]
    weight: float


def sent_of(victim: Victim, *, moves_masks: bool = False) -> DifferentiableUpdate:
    """Return the received update as a function of the examples. Call `check` first.

    Args:
        victim: the update with its ground truth.
        moves_masks: whether the dropout masks are variables too.

    Raises:
        NotDefinedError: the update is no such function; the message gives the reason.
    """
    shares = _shares(victim, moves_masks=moves_masks)
    inputs = victim.examples.inputs.detach().double().requires_grad_()
    model = copy.deepcopy(victim.model).double()
    parts = [
        (_Client(victim.world, model, victim.entry.round, share.update, inputs).compute_update(share.steps))
        for share in shares
    ]
    names = [n for n, t in parts[0][0].items() if any(part[n].requires_grad for part, *_ in parts)]
    if not names:
        raise NotDefinedError("the update does not depend on the examples")
    weights = [share.weight for share in shares]
    tensors, noise = _combine_updates(victim, weights, parts)
    spread = _side_by_side(weights, [part_spread for *_, part_spread in parts])
    masks = tuple(mask for share in shares for step in share.steps for mask in step.masks)
    rates = tuple(site.rate for share in shares for step in share.steps for site in step.sites)
    owners = torch.zeros(len(inputs), dtype=torch.long)
    for number, client_share in enumerate(shares):
        for step in client_share.steps:
            owners[step.places] = number
    sent, known = (tuple(named[n] for n in names) for named in (tensors, noise))
    return DifferentiableUpdate(inputs, masks, rates, sent, known, tuple(spread[n] for n in names if spread), owners)


def check(victim: Victim) -> None:
    """Check, without a replay, that the update is a differentiable function of the client's examples.

    Raises:
        NotDefinedError: it is not; the message gives the reason.
    """
    truth, world = victim.truth, victim.world
    if not len(victim.examples):
        raise NotDefinedError("the update contains no example")
    if not victim.examples.inputs.is_floating_point():
        raise NotDefinedError("not defined for tokens, which have no derivative")
    if any(not torch.equal(a.inputs, b.inputs) for a, b in zip(truth.batches, truth.original_batches, strict=True)):
        raise NotDefinedError("not defined where a client trains on other examples than it owns")
    if len(truth.batches) > 1 and not truth.masks:
        raise NotDefinedError("not defined for a captured update of several steps with unknown batches")
    if world.stack.loss_terms:
        raise NotDefinedError("not defined with a term of the loss that a component adds")
    if any(component.step_factors(victim.entry.received_weights) for component in world.stack.model_components):
        raise NotDefinedError("not defined where a component scales the optimizer's steps")
    if world.scenario.federation.keep_optimizer_state and any(victim.entry.earlier.values()):
        raise NotDefinedError("not defined for a client that keeps its optimizer's state")
    if victim.entry.clients and world.stack.rule.needs_single_updates:
        raise NotDefinedError("not defined where the server does more than add updates up")


def _shares(victim: Victim, *, moves_masks: bool) -> list[_Share]:
    """Return the local training of each client behind the update; of a single client from the ground truth itself."""
    world, entry = victim.world, victim.entry
    if not entry.clients:
        return [
            _share(victim, entry.update, victim.truth, example_indices(victim.truth.original_batches), 1.0, moves_masks)
        ]
    parts = [repeat(world, entry, client) for client in entry.clients]
    of_steps = [
        whole.split([len(batch) if batch is not None else 0 for batch in step])
        for whole, step in zip(
            example_indices(victim.truth.original_batches),
            zip_longest(*(part.truth.original_batches for part in parts)),
            strict=True,
        )
    ]
    weights = [world.stack.rule.weight(part.update.examples) for part in parts]
    total = max(sum(weights), 1)
    return [
        _share(victim, part.update, part.truth, places, weight / total, moves_masks)
        for part, places, weight in zip(parts, zip(*of_steps, strict=True), weights, strict=True)
    ]


def _share(
    victim: Victim, update: Update, truth: Truth, places: Sequence[Tensor], weight: float, moves: bool
) -> _Share:
    steps: list[_Step] = []
    for number, batch in enumerate(truth.batches):
        known = truth.masks[number] if truth.masks else ()
        if len(batch) and len(known) != len(victim.sites):
            raise NotDefinedError("not defined where the dropout masks are not known")
        masks = tuple(m.detach().double().requires_grad_(moves) for m in known)
        sites = tuple(
            replace(s, shape=tuple(m.shape)) for s, m in zip(victim.sites if len(batch) else (), masks, strict=True)
        )
        draws: Draws = truth.draws[number] if truth.draws else {}
        steps.append(_Step(batch, places[number], masks, sites, draws))
    return _Share(update, tuple(steps), weight)


def _combine_updates(
    victim: Victim, weights: Sequence[float], clients: Sequence[tuple[Tensors, Noise, Spread]]
) -> tuple[Tensors, Noise]:
    """Return the weighted mean of the updates and its noise; with secure aggregation each client rounds its update."""
    if not victim.entry.clients:
        return clients[0][:2]
    secure = victim.world.scenario.secure_aggregation is not None
    clip = secure_settings(victim.world).clipping_range if secure else None
    width = secure_settings(victim.world).step / 6**0.5 if secure else 0.0  # stochastic rounding: f (1 - f) step^2
    tensors, noise = dict[str, Tensor](), Noise()
    for name in clients[0][0]:
        parts = [
            client_tensors[name] if clip is None else client_tensors[name].clamp(-clip, clip)
            for client_tensors, *_ in clients
        ]
        tensors[name] = torch.stack([w * part for w, part in zip(weights, parts, strict=True)]).sum(0)
        squares = [
            w**2 * (client_noise[name].square() + width**2)
            for w, (_, client_noise, _) in zip(weights, clients, strict=True)
        ]
        noise[name] = torch.stack(squares).sum(0).sqrt()
        if 0 < float(tensors[name].detach().std(correction=0)) < width:
            raise NotDefinedError("not defined for rounding to steps wider than the spread of the entries")
    return tensors, noise


class _Client:
    """A client's local training as a differentiable function of the examples."""

    def __init__(self, world: World, model: nn.Module, round_: int, update: Update, inputs: Tensor) -> None:
        self._world, self._model, self._round, self._kind, self._inputs = world, model, round_, update.kind, inputs
        defenses = world.stack.defenses
        distortions = [
            (defense, defense.describe_distortion(world.facts.federation, update.tensors)) for defense in defenses
        ]
        unknown = [defense.name for defense, distortion in distortions if distortion is None]
        if unknown:
            raise NotDefinedError(f"not defined for {' and '.join(unknown)}")
        known = [(defense, distortion) for defense, distortion in distortions if distortion is not None]
        self._of_steps = [
            distortion for defense, distortion in known if defense.changes_steps or self._kind == "gradient"
        ]
        self._of_update = [
            distortion for defense, distortion in known if not (defense.changes_steps or self._kind == "gradient")
        ]
        self._of_one_step = [
            defense.name
            for defense, distortion in known
            if defense.changes_steps and (distortion.reads_sent or distortion.spread)
        ]

    def compute_update(self, steps: Sequence[_Step]) -> tuple[Tensors, Noise, Spread]:
        """Return the client's update without noise, the standard deviation of its noise, and the covariance columns."""
        if len(steps) > 1 and self._of_one_step:
            raise NotDefinedError(f"not defined for {self._of_one_step[0]} at each of several steps")
        received = {n: p.detach() for n, p in self._model.named_parameters() if p.requires_grad}
        weights, state, noises = received, dict[str, Tensor](), list[Noise]()
        spread: Spread = {}
        for step in steps:
            gradient, defended, noises, spread = self._defend_gradient(step, weights)
            if self._kind == "gradient":
                return defended, _combine_noise([*noises, _rounding(gradient, defended)]), spread
            weights, noises, spread = self._apply_optimizer(weights, defended, noises, spread, state)
        change: Tensors = {name: received[name] - weights[name] for name in received}
        plain = change
        for distortion in self._of_update:
            if spread or distortion.spread:
                raise NotDefinedError(
                    "not defined for noise with a covariance together with a defense of the weight delta"
                )
            change, noise = _distort_tensors(distortion, change)
            noises += noise
        lost = {n: len(steps) ** 0.5 * ideal.ROUNDING * w.square().mean().sqrt() for n, w in received.items()}
        return change, _combine_noise([*noises, _rounding(plain, change, lost)]), spread

    def _defend_gradient(self, step: _Step, weights: Tensors) -> tuple[Tensors, Tensors, list[Noise], Spread]:
        """Return a step's gradient before and after the defenses, and their noise."""
        by_example = any(distortion.change_examples for distortion in self._of_steps)
        gradient = self._gradient(step, weights, by_example=by_example)
        plain = {name: (t.mean(0) if by_example and len(t) else t).detach() for name, t in gradient.items()}
        noises: list[Noise] = []
        spread: Spread = {}
        for number, distortion in enumerate(self._of_steps):
            if distortion.spread and any(
                earlier.change or earlier.change_examples or earlier.spread for earlier in self._of_steps[:number]
            ):
                raise NotDefinedError("not defined for noise with a covariance behind a defense that changes gradients")
            if spread and distortion.change:
                raise NotDefinedError("not defined for a defense that changes noise with a covariance")
            gradient, noise = _distort_tensors(distortion, gradient)
            noises += noise
            if distortion.spread and len(step.batch):
                spread = self._columns(distortion.spread, gradient)
        return plain, gradient, noises, spread

    def _columns(self, spread: Callable[[Tensors, Tensor], Tensors], gradient: Tensors) -> Spread:
        """Return the nonzero columns of a covariance."""
        size = self._inputs.numel() * sum(part.numel() for part in gradient.values())
        if size > _MOST:  # at most as many columns as inputs
            raise NotDefinedError(
                f"not defined for a covariance of {size:,} numbers, which is too much to compute with"
            )
        columns = spread(gradient, self._inputs)
        moves = torch.cat([column.detach().flatten(1) for column in columns.values()], 1).any(1)
        return {name: column.detach()[moves] for name, column in columns.items()}

    def _gradient(self, step: _Step, weights: Tensors, *, by_example: bool) -> Tensors:
        """Return the gradient of the mean loss, or the gradient of each example, with its autograd graph."""
        if not len(step.batch):
            blank = {name: torch.zeros_like(w) for name, w in weights.items()}
            return {name: w[None] for name, w in blank.items()} if by_example else blank
        parameters = {name: w if w.requires_grad else w.detach().requires_grad_() for name, w in weights.items()}
        task, batch = self._world.task, _double_batch(step.batch, self._inputs[step.places])

        def run(*given: object, **named: object) -> Tensor:
            return functional_call(self._model, dict(parameters), given, named)

        with inject_masks(step.sites, step.masks), Showing(step.draws):
            outputs, targets = task.answer(run, batch, step.draws)
        if not by_example:
            return _gradient(self._world.stack.loss(self._round)(outputs, targets), parameters)
        gradients = [_gradient(loss, parameters) for loss in task.losses(outputs, targets)]
        return {name: torch.stack([gradient[name] for gradient in gradients]) for name in parameters}

    def _apply_optimizer(
        self,
        weights: Tensors,
        gradient: Tensors,
        noises: Sequence[Noise],
        spread: Spread,
        state: dict[str, Tensor],
    ) -> tuple[Tensors, list[Noise], Spread]:
        """Return the weights after the optimizer's step, with this step's noise.

        Noise of earlier steps, propagated through later steps, is ignored. Less noise only improves the attacker's
        bound, so the ceiling errs on the side of the defender.
        """
        optimizer = self._world.stack.optimizer
        moved = {name: w.clone() for name, w in weights.items()}
        # `step` runs under a decorator that disables gradients; the wrapped function is differentiable.
        inspect.unwrap(type(optimizer).step)(optimizer, moved, gradient, state)
        depends = any(part.requires_grad for part in gradient.values())
        if depends and not any(part.requires_grad for part in moved.values()):
            raise NotDefinedError(f"not defined for the optimizer {self._world.scenario.federation.optimizer.name}")
        if not noises and not spread:
            return moved, [], {}
        slopes = _slopes(moved, gradient)
        passed = [{name: noise[name] * slopes[name] for name in noise} for noise in (*noises, spread)]
        return moved, passed[:-1], passed[-1]


def _slopes(moved: Tensors, gradient: Tensors) -> Tensors:
    """Return the absolute derivative of each weight by its own gradient entry; optimizers act elementwise."""
    names = [name for name, part in gradient.items() if part.requires_grad]
    whole = torch.stack([moved[name].sum() for name in names]).sum()
    derivatives = torch.autograd.grad(
        whole, [gradient[name] for name in names], retain_graph=True, materialize_grads=True
    )
    slopes = {name: derivative.detach().abs() for name, derivative in zip(names, derivatives, strict=True)}
    return {name: slopes.get(name, torch.zeros_like(part)) for name, part in gradient.items()}


def _distort_tensors(distortion: Distortion, tensors: Tensors) -> tuple[Tensors, list[Noise]]:
    """Return tensors after a defense, and the defense's noise."""
    change = distortion.change_examples or distortion.change
    tensors = tensors if change is None else change(tensors)
    noise = {} if distortion.noise is None else distortion.noise(tensors)
    if noise is None:
        raise NotDefinedError("not defined for rounding to steps wider than the spread of the entries")
    return tensors, [dict(noise)] if noise else []


def _side_by_side(weights: Sequence[float], parts: Sequence[Spread]) -> Spread:
    """Concatenate the covariance columns of the weighted mean: the clients' noise is independent."""
    names = next((list(part) for part in parts if part), [])
    return {n: torch.cat([w * part[n] for w, part in zip(weights, parts, strict=True) if part]) for n in names}


def _rounding(plain: Tensors, sent: Tensors, lost: Tensors | None = None) -> Noise:
    """Return the rounding noise, scaled by the clipping factor (estimated from entries that remain nonzero).

    `lost` is the additional rounding of each tensor of a weight delta, from rounding of both operands.
    """
    before = torch.cat([tensor.detach().flatten() for tensor in plain.values()])
    after = torch.cat([sent[name].detach().flatten() for name in plain])
    are_nonzero = (before != 0) & (after != 0)
    factor = (after[are_nonzero] / before[are_nonzero]).abs().median() if bool(are_nonzero.any()) else 1.0
    noise = ideal.rounding_noise({name: tensor.detach() for name, tensor in plain.items()})
    if lost is not None:
        noise = {name: (width.square() + lost[name].square()).sqrt() for name, width in noise.items()}
    return {name: factor * width for name, width in noise.items()}


def _combine_noise(noises: Sequence[Tensors]) -> Noise:
    """Return the root of the summed variances of several noise sources; the last source has every name."""
    return {
        name: torch.stack([noise[name].detach().expand(whole.shape).square() for noise in noises]).sum(0).sqrt()
        for name, whole in noises[-1].items()
    }


def _double_batch(batch: Batch, inputs: Tensor) -> Batch:
    given = {n: g.double() if g.is_floating_point() else g for n, g in batch.extra_inputs.items()}
    labels = batch.labels.double() if batch.labels.is_floating_point() else batch.labels
    return Batch(inputs, labels, given)


def _gradient(loss: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True, materialize_grads=True)
    return dict(zip(parameters, gradients, strict=True))
