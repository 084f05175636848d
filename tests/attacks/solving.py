"""Runs of attacks in tests, with a generator of a fixed seed, and the networks that they solve."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core import registry, seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack
from fedsim.core.nets.losses import cross_entropy
from fedsim.core.nets.masks import record_masks
from fedsim.core.types import (
    Batch,
    Config,
    InputSpec,
    Observation,
    OnStep,
    Reconstruction,
    ThreatModel,
    Truth,
    Update,
)
from fedsim.metrics.image import score_items
from fedsim.metrics.missing import complete
from fedsim.tasks.classification import Classification

KNOWN = ("batch-size", "dropout-rates", "input-statistics", "labels")


def answer(attack: Attack, observation: Observation, seed: int = 0) -> Reconstruction:
    """Return what an attack makes of an observation."""
    return attack(observation, torch.Generator().manual_seed(seed))


def attack_named(name: str, **settings: object) -> Attack[Any]:
    """Return an attack with these settings."""
    method = registry.get("attack", name)
    return method.make(method.config.model_validate(settings))


def solve(name: str, observation: Observation, seed: int = 0, **config: object) -> Reconstruction:
    """Return what an attack of this name makes of an observation, with these settings."""
    return answer(attack_named(name, **config), observation, seed)


def assert_refused(name: str, cases: dict[str, Observation]) -> None:
    """Check that an attack refuses each observation with its reason."""
    for reason, observation in cases.items():
        with pytest.raises(NotApplicable, match=reason):
            solve(name, observation)


def attacked(
    name: str, observation: Observation, on_step: OnStep = lambda _step: None, *, stream: int = 1, **settings: object
) -> Reconstruction:
    """Return what an attack of this name makes of an observation, with the random numbers of a stream of their own."""
    return attack_named(name, **settings)(observation, seeding.generator(stream, "attack"), on_step)


def observed(
    model: nn.Module, spec: InputSpec, tensors: Mapping[str, Tensor], size: int = 1, **changes: Any
) -> Observation:
    """Return what a server sees of one gradient of a batch of this size; by default of a classifier without dropout."""
    given = {
        "threat": ThreatModel(knows=KNOWN), "loss": cross_entropy, "local_steps": 1, "learning_rate": 0.1, "sites": (),
        "labels": None, "masks": None, "known_methods": (), "task": Classification(Config()),
        "update": Update("gradient", dict(tensors), {}, size, 0.0), "batch_size": size,
    }  # fmt: skip
    return Observation(model=model, spec=spec, **{**given, **changes})


def toy(
    model: nn.Module,
    shape: tuple[int, ...],
    batch_size: int,
    *,
    classes: int = 4,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> tuple[Observation, Truth]:
    """Observe one exact gradient of a model on random inputs, under masks that are really drawn."""
    generator = torch.Generator().manual_seed(seed)
    model = model.to(dtype).train()
    batch = Batch(
        torch.randn((batch_size, *shape), generator=generator, dtype=torch.float64).to(dtype),
        torch.randint(classes, (batch_size,), generator=generator),
    )
    with record_masks(model, generator) as drawn:
        loss = F.cross_entropy(model(batch.inputs), batch.labels)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True, materialize_grads=True)
    tensors = dict(zip(trained, gradients, strict=True))
    spec = InputSpec(shape, classes, (0.5,) * shape[0], (0.2,) * shape[0])
    update = Update("gradient", tensors, {}, batch_size, float(loss.detach()))
    observation = observed(
        model, spec, tensors, batch_size, loss=F.cross_entropy, update=update, sites=tuple(drawn.sites),
        labels=batch.labels.clone(),
    )  # fmt: skip
    return observation, Truth((batch,), (tuple(drawn.masks),), observation.update, (batch,))


@contextmanager
def left_alone(observation: Observation) -> Iterator[None]:
    """Check afterwards that weights and update of an observation are as they were, and that nothing was accumulated."""
    weights = {key: value.clone() for key, value in observation.model.state_dict().items()}
    sent = {key: value.clone() for key, value in observation.update.tensors.items()}
    yield
    assert all(torch.equal(value, weights[key]) for key, value in observation.model.state_dict().items())
    assert all(torch.equal(value, sent[key]) for key, value in observation.update.tensors.items())
    assert all(parameter.grad is None for parameter in observation.model.parameters())


def psnr_of(guess: Reconstruction, truth: Truth, spec: InputSpec) -> list[float]:
    """Return the PSNR of each example in dB."""
    whole = complete(guess, len(truth.batches[0]))
    return [item.values["psnr"] for item in score_items(whole, truth.batches[0], spec).items]


def sending(observation: Observation, tensors: Mapping[str, Tensor], **changes: Any) -> Observation:
    """Return the observation with other tensors in its update."""
    return replace(observation, update=replace(observation.update, tensors=dict(tensors)), **changes)


def resending(observation: Observation, inputs: Tensor, labels: Tensor, scale: float = 1.0) -> Observation:
    """Return what the server sees if the client has these examples, without dropout, its loss multiplied by `scale`."""
    parameters = {name: observation.model.get_parameter(name) for name in observation.update.tensors}
    loss = scale * observation.loss(observation.model(inputs), labels)
    return sending(
        observation, dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    )


def hiding(observation: Observation, *names: str, hidden: bool = True) -> Observation:
    """Return the observation without tensors of these names, or, if not `hidden`, with no others."""
    gone = frozenset(name for name in observation.update.tensors if (name in names) is hidden)
    tensors = {name: tensor for name, tensor in observation.update.tensors.items() if name not in gone}
    return sending(observation, tensors, hidden_parameters=observation.hidden_parameters | gone)


def without_information(observation: Observation) -> Observation:
    """Replace the gradient by noise of the same shapes: an attack that still finds the image has seen it elsewhere."""
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
        for name, tensor in observation.update.tensors.items()
    }
    return sending(observation, tensors)


def network(
    pixels: int,
    width: int,
    *,
    bias: bool = True,
    rates: tuple[float | None, float | None] = (None, None),
    activation: type[nn.Module] = nn.GELU,
) -> nn.Module:
    """Three dense layers, four classes; behind an activation with a rate comes a dropout layer."""
    with seeding.isolate_randomness(2):
        first, second, last = (
            nn.Linear(pixels, width, bias=bias),
            nn.Linear(width, width, bias=bias),
            nn.Linear(width, 4, bias=bias),
        )
    drops = [[] if rate is None else [nn.Dropout(rate)] for rate in rates]
    return nn.Sequential(nn.Flatten(), first, activation(), *drops[0], second, activation(), *drops[1], last)


def with_noise(observation: Observation, level: float) -> Observation:
    """Add Gaussian noise whose norm is `level` times that of the whole gradient."""
    generator = torch.Generator().manual_seed(1)
    tensors = observation.update.tensors
    entries = sum(tensor.numel() for tensor in tensors.values())
    norm = sum(float(tensor.square().sum()) for tensor in tensors.values()) ** 0.5
    scale = level * norm / entries**0.5
    noisy = {name: t + scale * torch.randn(t.shape, generator=generator) for name, t in tensors.items()}
    return sending(observation, noisy)
