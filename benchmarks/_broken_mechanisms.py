"""Private steps as they should be written, and each way of writing one wrongly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count

import torch
import torch.nn.functional as F
from torch import nn

from fedsim.core import seeding
from fedsim.core.types import Batch, Tensors
from fedsim.privacy.coupled import check_step
from fedsim.privacy.sampling import SamplingClaim, sampling_fault

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


def private(batch: Batch, seed: int, step: int) -> Tensors:
    """DP-SGD as it is: each gradient is clipped, the sum gets noise, and the expected size divides."""
    total = sum_tensors([clip_tensors(one) for one in slopes(batch, network())])
    return plus(total, noise_like(total, seed, step))


def no_clipping(batch: Batch, seed: int, step: int) -> Tensors:
    total = sum_tensors(slopes(batch, network()))
    return plus(total, noise_like(total, seed, step))


def clips_the_sum(batch: Batch, seed: int, step: int) -> Tensors:
    total = clip_tensors(sum_tensors(slopes(batch, network())))
    return plus(total, noise_like(total, seed, step))


def clips_parts_of_two(batch: Batch, seed: int, step: int) -> Tensors:
    every = slopes(batch, network())
    total = sum_tensors([clip_tensors(sum_tensors(every[place : place + 2])) for place in range(0, len(every), 2)])
    return plus(total, noise_like(total, seed, step))


def clips_each_layer(batch: Batch, seed: int, step: int) -> Tensors:
    def by_layer(one: Tensors) -> Tensors:
        return {name: clip_tensors({name: tensor})[name] for name, tensor in one.items()}

    total = sum_tensors([by_layer(one) for one in slopes(batch, network())])
    return plus(total, noise_like(total, seed, step))


def weighs_after_clipping(batch: Batch, seed: int, step: int) -> Tensors:
    total = sum_tensors([clip_tensors(one) for one in slopes(batch, network())])
    return plus({name: 3 * tensor for name, tensor in total.items()}, noise_like(total, seed, step))


def mixes_examples(batch: Batch, seed: int, step: int) -> Tensors:
    model = network(normalised=len(batch) > 1)
    total = sum_tensors([clip_tensors(one) for one in slopes(batch, model)])
    total = {
        name: total.get(name, torch.zeros_like(tensor)) for name, tensor in network(normalised=True).named_parameters()
    }
    return plus({name: tensor.detach() for name, tensor in total.items()}, noise_like(total, seed, step))


def normalises_the_sum(batch: Batch, seed: int, step: int) -> Tensors:
    total = sum_tensors([clip_tensors(one) for one in slopes(batch, network())])
    total = {name: 10 * tensor / length(total) for name, tensor in total.items()}
    return plus(total, noise_like(total, seed, step))


def clips_at_the_median(batch: Batch, seed: int, step: int) -> Tensors:
    every = slopes(batch, network())
    clip = sorted(map(length, every))[len(every) // 2]
    total = sum_tensors([clip_tensors(one, clip) for one in every])
    return plus(total, noise_like(total, seed, step, NOISE * CLIP))


def clip_of_data_in_noise(batch: Batch, seed: int, step: int) -> Tensors:
    every = slopes(batch, network())
    clip = sorted(map(length, every))[len(every) // 2]
    total = sum_tensors([clip_tensors(one, clip) for one in every])
    return plus(total, noise_like(total, seed, step, NOISE * clip))


def lets_nan_pass(batch: Batch, seed: int, step: int) -> Tensors:
    def careless(one: Tensors) -> Tensors:
        return {name: tensor * min(1.0, CLIP / length(one)) for name, tensor in one.items()}

    total = sum_tensors([careless(one) for one in slopes(batch, network())])
    return plus(total, noise_like(total, seed, step))


def raises_on_nan(batch: Batch, seed: int, step: int) -> Tensors:
    if not bool(torch.isfinite(batch.inputs).all()):
        raise ValueError("a record is not finite")
    return private(batch, seed, step)


def noise_over_the_size(batch: Batch, seed: int, step: int) -> Tensors:
    total = sum_tensors([clip_tensors(one) for one in slopes(batch, network())])
    return plus(total, noise_like(total, seed, step, NOISE * CLIP / len(batch)))


def divides_by_the_size(batch: Batch, seed: int, step: int) -> Tensors:
    total = sum_tensors([clip_tensors(one) for one in slopes(batch, network())])
    return plus(total, noise_like(total, seed, step), len(batch))


def too_little_noise(batch: Batch, seed: int, step: int) -> Tensors:
    total = sum_tensors([clip_tensors(one) for one in slopes(batch, network())])
    return plus(total, noise_like(total, seed, step, 0.7 * NOISE * CLIP))


def a_layer_without_noise(batch: Batch, seed: int, step: int) -> Tensors:
    total = sum_tensors([clip_tensors(one) for one in slopes(batch, network())])
    noise = noise_like(total, seed, step)
    return plus(total, {**noise, "0.bias": torch.zeros(8)})


def noise_again_in_each_step(batch: Batch, seed: int, step: int) -> Tensors:
    return private(batch, seed, 0)


def noise_again_in_each_layer(batch: Batch, seed: int, step: int) -> Tensors:
    total = sum_tensors([clip_tensors(one) for one in slopes(batch, network())])
    noise = {name: noise_like({name: tensor}, seed, step)[name] for name, tensor in total.items()}
    return plus(total, noise)


def averages_twice(batch: Batch, seed: int, step: int) -> Tensors:
    total = sum_tensors([clip_tensors(one) for one in slopes(batch, network())])
    return plus(total, noise_like(total, seed, step, NOISE * CLIP / EXPECTED))


def noise_again_for_each_client(batch: Batch, seed: int, step: int) -> Tensors:
    return private(batch, seed, step % (STEPS // 2))


def sends_its_loss(batch: Batch, seed: int, step: int) -> Tensors:
    loss = F.cross_entropy(network()(batch.inputs), batch.labels)
    return {**private(batch, seed, step), "loss": torch.nan_to_num(loss.detach())[None]}


def sends_its_size(batch: Batch, seed: int, step: int) -> Tensors:
    return {**private(batch, seed, step), "examples": torch.tensor([float(len(batch))])}


def draws_elsewhere(batch: Batch, seed: int, step: int) -> Tensors:
    sent = private(batch, seed, step)
    return {name: tensor + next(CALLS) for name, tensor in sent.items()}


def faults_of(step: Callable[[Batch, int, int], Tensors]) -> tuple[str, ...]:
    """Return what neighbouring batches show of a step."""
    return check_step(step, RECORDS, NOISE, STEPS).faults


def faults_of_shuffling() -> tuple[str, ...]:
    """Return what sizes show of four shuffled passes over 100 records, which claim Poisson sampling of 8."""
    return (sampling_fault(SamplingClaim(4 * [*12 * [8], 4], records=100, rate=0.08)),)


MUTANTS: Mapping[Callable[[Batch, int, int], Tensors], str] = {
    no_clipping: "one record moves",
    clips_the_sum: "one record moves",
    clips_parts_of_two: "one record moves",
    clips_each_layer: "one record moves",
    weighs_after_clipping: "one record moves",
    mixes_examples: "one record moves",
    normalises_the_sum: "one record moves",
    clips_at_the_median: "one record moves",
    lets_nan_pass: "not finite",
    noise_over_the_size: "depends on the records",
    divides_by_the_size: "depends on the records",
    averages_twice: "one record moves",
    too_little_noise: "one record moves",
    a_layer_without_noise: "moves the output by inf",
    noise_again_in_each_step: "used again in another step",
    noise_again_for_each_client: "used again in another step",
    noise_again_in_each_layer: "is used again in",
}
"""Wrong clipping and noise, with a part of the sentence that says so. Shuffling, which is no step, is the 18th."""

LEAKS: Mapping[Callable[[Batch, int, int], Tensors], str] = {
    clip_of_data_in_noise: "depends on the records",
    raises_on_nan: "on one of two neighbours alone",
    sends_its_loss: "moves the output by inf",
    sends_its_size: "moves the output by inf",
    draws_elsewhere: "derive all randomness from the seed",
}
"""What else a step can give away, with a part of the sentence that says so."""
