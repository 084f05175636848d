"""Private steps as they should be written, and each way of writing one wrongly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fedsim.core import seeding
from fedsim.core.types import Batch, Tensors
from fedsim.privacy.coupled import check_step
from fedsim.privacy.sampling import SamplingClaim, sampling_fault

Step = Callable[[Batch, int, int], Tensors]
NOISE, CLIP, EXPECTED = 2.0, 0.3, 8
STEPS = 4  # two of each of two clients
CALLS = count()
RECORDS = Batch(torch.randn(12, 6, generator=torch.Generator().manual_seed(4)), torch.arange(12) % 3)


def network(*, normalised: bool = False) -> nn.Sequential:
    between = nn.BatchNorm1d(8) if normalised else nn.Identity()
    with seeding.isolate_randomness(1):
        return nn.Sequential(nn.Linear(6, 8), between, nn.Tanh(), nn.Linear(8, 3)).train()


def slopes(batch: Batch, model: nn.Sequential) -> list[Tensors]:
    """Return the gradient of each example, apart from the others unless the model mixes them."""
    is_mixed = any(isinstance(layer, nn.BatchNorm1d) for layer in model)
    outputs = model(batch.inputs).split(1) if is_mixed else map(model, batch.inputs.split(1))
    losses = list(map(F.cross_entropy, outputs, batch.labels.split(1)))
    names = [name for name, _ in model.named_parameters()]
    every = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for loss in losses]
    return [dict(zip(names, gradients, strict=True)) for gradients in every]


def length(tensors: Tensors) -> float:
    return float(torch.stack([tensor.square().sum() for tensor in tensors.values()]).sum().sqrt())


def clip_tensors(tensors: Tensors, clip: float = CLIP) -> Tensors:
    norm = length(tensors)
    factor = min(1.0, clip / norm) if norm > 0 else 1.0
    if not norm < float("inf"):
        return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    return {name: factor * tensor for name, tensor in tensors.items()}


def sum_tensors(every: list[Tensors]) -> Tensors:
    return {name: torch.stack([one[name] for one in every]).sum(0) for name in every[0]}


def noise_like(tensors: Tensors, seed: int, step: int, size: float = NOISE * CLIP) -> Tensors:
    source = torch.Generator().manual_seed(1000 * seed + step)
    return {name: size * torch.randn(tensor.shape, generator=source) for name, tensor in tensors.items()}


def plus(one: Tensors, other: Tensors, divisor: float = EXPECTED) -> Tensors:
    return {name: (one[name] + other[name]) / divisor for name in one}


def clip_each(every: list[Tensors], clip: float = CLIP) -> list[Tensors]:
    return [clip_tensors(one, clip) for one in every]


def private(
    batch: Batch,
    seed: int,
    step: int,
    *,
    clipped: Callable[[list[Tensors]], list[Tensors]] = clip_each,
    change: Callable[[Tensors], Tensors] = dict,
    noise: Callable[[Tensors, int, int, float], Tensors] = noise_like,
    size: Callable[[list[Tensors]], float] = lambda _every: NOISE * CLIP,
    divisor: Callable[[list[Tensors]], float] = lambda _every: EXPECTED,
) -> Tensors:
    """DP-SGD as it is: each gradient is clipped, the sum gets noise, and the expected size divides.

    Args:
        batch: the examples.
        seed: of the noise.
        step: number of the step.
        clipped: clips gradients.
        change: changes their sum.
        noise: draws noise from a sum, seed, step and standard deviation.
        size: standard deviation of the noise, from the gradients.
        divisor: divides the noisy sum, from the gradients.
    """
    every = slopes(batch, network())
    total = change(sum_tensors(clipped(every)))
    return plus(total, noise(total, seed, step, size(every)), divisor(every))


def clip_parts_of_two(every: list[Tensors]) -> list[Tensors]:
    return clip_each([sum_tensors(every[place : place + 2]) for place in range(0, len(every), 2)])


def clip_each_layer(every: list[Tensors]) -> list[Tensors]:
    return [{name: clip_tensors({name: tensor})[name] for name, tensor in one.items()} for one in every]


def clip_carelessly(every: list[Tensors]) -> list[Tensors]:
    return [{name: tensor * min(1.0, CLIP / length(one)) for name, tensor in one.items()} for one in every]


def median_length(every: list[Tensors]) -> float:
    return sorted(map(length, every))[len(every) // 2]


def clip_at_the_median(every: list[Tensors]) -> list[Tensors]:
    return clip_each(every, median_length(every))


def normalise(total: Tensors) -> Tensors:
    return {name: 10 * tensor / length(total) for name, tensor in total.items()}


def weigh(total: Tensors) -> Tensors:
    return {name: 3 * tensor for name, tensor in total.items()}


def no_noise_in_a_layer(total: Tensors, *draw: Any) -> Tensors:
    return {**noise_like(total, *draw), "0.bias": torch.zeros(8)}


def same_noise_in_layers(total: Tensors, *draw: Any) -> Tensors:
    return {name: noise_like({name: tensor}, *draw)[name] for name, tensor in total.items()}


def mixes_examples(batch: Batch, seed: int, step: int) -> Tensors:
    total = sum_tensors(clip_each(slopes(batch, network(normalised=len(batch) > 1))))
    parameters = network(normalised=True).named_parameters()
    total = {name: total.get(name, torch.zeros_like(tensor)).detach() for name, tensor in parameters}
    return plus(total, noise_like(total, seed, step))


def raises_on_nan(batch: Batch, seed: int, step: int) -> Tensors:
    if not bool(torch.isfinite(batch.inputs).all()):
        raise ValueError("a record is not finite")
    return private(batch, seed, step)


def sends_its_loss(batch: Batch, seed: int, step: int) -> Tensors:
    loss = F.cross_entropy(network()(batch.inputs), batch.labels)
    return {**private(batch, seed, step), "loss": torch.nan_to_num(loss.detach())[None]}


def sends_its_size(batch: Batch, seed: int, step: int) -> Tensors:
    return {**private(batch, seed, step), "examples": torch.tensor([float(len(batch))])}


def draws_elsewhere(batch: Batch, seed: int, step: int) -> Tensors:
    return {name: tensor + next(CALLS) for name, tensor in private(batch, seed, step).items()}


def faults_of(step: Step) -> tuple[str, ...]:
    """Return what neighbouring batches show of a step."""
    return check_step(step, RECORDS, NOISE, STEPS).faults


def faults_of_shuffling() -> tuple[str, ...]:
    """Return what sizes show of four shuffled passes over 100 records, which claim Poisson sampling of 8."""
    return (sampling_fault(SamplingClaim(4 * [*12 * [8], 4], records=100, rate=0.08)),)


_OF_A_RECORD, _OF_THE_RECORDS = "one record moves", "depends on the records"
MUTANTS: Mapping[str, tuple[Step, str]] = {
    "no clipping": (partial(private, clipped=list), _OF_A_RECORD),
    "clips the sum": (partial(private, clipped=list, change=clip_tensors), _OF_A_RECORD),
    "clips parts of two": (partial(private, clipped=clip_parts_of_two), _OF_A_RECORD),
    "clips each layer": (partial(private, clipped=clip_each_layer), _OF_A_RECORD),
    "weighs after clipping": (partial(private, change=weigh), _OF_A_RECORD),
    "mixes examples": (mixes_examples, _OF_A_RECORD),
    "normalises the sum": (partial(private, change=normalise), _OF_A_RECORD),
    "clips at the median": (partial(private, clipped=clip_at_the_median), _OF_A_RECORD),
    "lets NaN pass": (partial(private, clipped=clip_carelessly), "not finite"),
    "noise over the size": (partial(private, size=lambda every: NOISE * CLIP / len(every)), _OF_THE_RECORDS),
    "divides by the size": (partial(private, divisor=len), _OF_THE_RECORDS),
    "averages twice": (partial(private, size=lambda _every: NOISE * CLIP / EXPECTED), _OF_A_RECORD),
    "too little noise": (partial(private, size=lambda _every: 0.7 * NOISE * CLIP), _OF_A_RECORD),
    "a layer without noise": (partial(private, noise=no_noise_in_a_layer), "moves the output by inf"),
    "noise again in each step": (lambda batch, seed, _step: private(batch, seed, 0), "used again in another step"),
    "noise again for each client": (
        lambda batch, seed, step: private(batch, seed, step % (STEPS // 2)),
        "used again in another step",
    ),
    "noise again in each layer": (partial(private, noise=same_noise_in_layers), "is used again in"),
}
"""Wrong clipping and noise, with a part of the sentence that says so. Shuffling, which is no step, is the 18th."""

LEAKS: Mapping[str, tuple[Step, str]] = {
    "clip of data in noise": (
        partial(private, clipped=clip_at_the_median, size=lambda every: NOISE * median_length(every)),
        _OF_THE_RECORDS,
    ),
    "raises on NaN": (raises_on_nan, "on one of two neighbours alone"),
    "sends its loss": (sends_its_loss, "moves the output by inf"),
    "sends its size": (sends_its_size, "moves the output by inf"),
    "draws elsewhere": (draws_elsewhere, "derive all randomness from the seed"),
}
"""What else a step can give away, with a part of the sentence that says so."""
