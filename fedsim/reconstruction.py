"""Attack gradients from anywhere, without a simulation."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from fedsim.core import registry, seeding
from fedsim.core.choices import Choice
from fedsim.core.devices import find_device
from fedsim.core.errors import FedsimError, describe_exception, did_you_mean
from fedsim.core.foreign import pytorch
from fedsim.core.hooks import Attack, Task
from fedsim.core.nets.masks import disable_dropout, dropout_sites
from fedsim.core.settings import DeviceName
from fedsim.core.types import (
    InputSpec,
    Knowledge,
    Loss,
    Observation,
    OnStep,
    Reconstruction,
    ThreatModel,
    Update,
)

_MODE_MATTERS = (pytorch.Dropout, pytorch.BatchNorm, nn.MultiheadAttention)


def reconstruct(
    model: nn.Module,
    loss: Loss,
    gradients: Mapping[str, Tensor] | Sequence[Tensor],
    *,
    shape: Sequence[int],
    classes: int,
    batch_size: int = 1,
    labels: Tensor | None = None,
    task: str = "classification",
    label_shape: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    attack: str = "auto",
    settings: Mapping[str, Any] | None = None,
    hidden: Sequence[str] = (),
    seed: int = 0,
    device: DeviceName = "cpu",
    on_step: OnStep = lambda _step: None,
    seconds: float | None = None,
) -> Reconstruction:
    """Return an attack's reconstruction of the batch behind a gradient.

    Args:
        model: with the weights at which the gradient was computed, in training mode; it is not changed.
        loss: ``loss(outputs, labels) -> scalar``, the mean over the batch.
        gradients: by parameter name, or in the order of ``model.parameters()`` as `torch.autograd.grad` returns them.
        shape: of an example, for example ``(3, 32, 32)``.
        classes: number of classes; for other tasks, number of model outputs per example or pixel.
        batch_size: number of examples behind the gradient.
        labels: known classes (batch_size,) or targets of the task; otherwise the attack infers them.
        task: name of the task, see `fedsim list tasks`: `regression`, `multi-label`, `segmentation`.
        label_shape: of the label of an example; by default the shape in `labels`, or else () for a class, (H, W) for a
            class of every pixel, and (classes,).
        mean: per-channel mean that was subtracted from pixels in [0, 1]; 0 when absent.
        std: per-channel standard deviation that was divided by; 1 when absent.
        attack: name of the attack.
        settings: of the attack.
        hidden: names of trained parameters with unknown gradients.
        seed: of the attack's random numbers.
        device: device of the attack; the guess is on the CPU.
        on_step: called once an iteration.
        seconds: processor time, after which the best guess so far is returned; None: unlimited.

    Raises:
        FedsimError: gradients are missing, extra, mis-shaped, not finite or all zero; labels or settings are out of
            range; the model is in evaluation mode but behaves differently in training mode; the device is absent; or
            the attack does not apply, with the reason.
    """
    method, place = registry.get("attack", attack, Attack), find_device(device)
    if batch_size < 1:
        raise FedsimError(f"batch_size is {batch_size}, expected at least 1.")
    _check_mode(model)
    spec = InputSpec(tuple(shape), classes, *_statistics(shape, mean, std))
    learnt: Task[Any] = Choice(name=task, settings={}).make("task")
    if labels is not None:
        label_shape = labels.shape[1:]
    target = tuple(_usual_shape(learnt, spec) if label_shape is None else label_shape), learnt
    observation = _observation(model, loss, gradients, spec, batch_size, labels, frozenset(hidden), place, target)
    chosen: Attack[Any] = method.make(_config(method, settings or {}))
    # some models are random in themselves
    with seeding.isolate_randomness(seeding.derive(seed, "foreign to an attack")):
        return chosen(observation, seeding.generator(seed, "attack"), on_step, seconds)


def _observation(
    model: nn.Module,
    loss: Loss,
    gradients: Mapping[str, Tensor] | Sequence[Tensor],
    spec: InputSpec,
    batch_size: int,
    labels: Tensor | None,
    hidden: frozenset[str],
    device: torch.device,
    target: tuple[tuple[int, ...], Task[Any]],
) -> Observation:
    model_copy = copy.deepcopy(model).cpu()
    knows: tuple[Knowledge, ...] = ("batch-size", "dropout-rates", "input-statistics")
    try:
        sites = dropout_sites(model_copy, spec.shape, batch_size)
    except FedsimError:
        raise
    except Exception as error:
        raise FedsimError(
            f"the model cannot run on a batch of {batch_size} examples of shape {spec.shape}: "
            f"{describe_exception(error)}."
        ) from error
    _check_loss(model_copy, loss, target, spec, batch_size)
    return Observation(
        threat=ThreatModel(knows=knows if labels is None else (*knows, "labels")),
        model=model_copy,
        loss=loss,
        update=Update("gradient", _name_gradients(model_copy, gradients, hidden), {}, batch_size, 0.0),
        spec=spec,
        local_steps=1,
        learning_rate=1.0,
        sites=sites,
        batch_size=batch_size,
        labels=None if labels is None else labels.cpu().clone(),
        masks=None,
        known_methods=(),
        hidden_parameters=hidden,
        device=device,
        label_shape=target[0],
        task=target[1],
    )


def _usual_shape(task: Task[Any], spec: InputSpec) -> tuple[int, ...]:
    if task.label_kind == "class":
        return ()
    return spec.shape[1:] if task.label_kind == "mask" else (spec.classes,)


def _check_loss(
    model: nn.Module, loss: Loss, target: tuple[tuple[int, ...], Task[Any]], spec: InputSpec, batch_size: int
) -> None:
    """Evaluate the loss on blank labels of the task.

    Raises:
        FedsimError: the loss rejects them.
    """
    label_shape, task = target
    are_whole = task.label_kind == "class" or (task.label_kind == "mask" and len(label_shape) == len(spec.shape) - 1)
    labels = torch.zeros(batch_size, *label_shape, dtype=torch.long if are_whole else torch.get_default_dtype())
    blank = torch.zeros(batch_size, *spec.shape, dtype=next(model.parameters()).dtype)
    with torch.no_grad(), disable_dropout(), seeding.isolate_randomness(0):
        outputs = copy.deepcopy(model)(blank)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Using a target size")
            loss(outputs, labels)
    except Exception as error:
        raise FedsimError(
            f"the loss fails on labels of task '{task.name}', {task.labels_in_words} of shape "
            f"{(batch_size, *label_shape)}: {describe_exception(error)}. Set the learning task "
            "as task = 'regression', 'multi-label', 'segmentation' or another of `fedsim list "
            "tasks`, and its labels' shape as label_shape."
        ) from error


def _name_gradients(
    model: nn.Module, gradients: Mapping[str, Tensor] | Sequence[Tensor], hidden: frozenset[str]
) -> dict[str, Tensor]:
    if isinstance(gradients, Mapping):
        return {name: _checked_copy(name, tensor) for name, tensor in gradients.items() if name not in hidden}
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad and name not in hidden]
    if len(gradients) != len(names):
        raise FedsimError(f"{len(gradients)} gradients were given for {len(names)} trained parameters of the model.")
    return {name: _checked_copy(name, tensor) for name, tensor in zip(names, gradients, strict=True)}


def _checked_copy(name: str, gradient: Tensor | None) -> Tensor:
    """Return a copy of a gradient; PyTorch gives None for a parameter that the loss does not depend on."""
    if gradient is None:
        raise FedsimError(
            f"the gradient of '{name}' is None: the loss does not depend on that parameter. Leave the gradient out "
            f"and name the parameter in hidden = ['{name}'], or call requires_grad_(False) on it."
        )
    return gradient.detach().cpu().clone()


def _check_mode(model: nn.Module) -> None:
    matters = next((name for name, module in model.named_modules() if isinstance(module, _MODE_MATTERS)), None)
    if not model.training and matters is not None:
        raise FedsimError(
            f"the model is in evaluation mode, and '{matters}' differs between evaluation and "
            "training. Call model.train(); if the gradient was taken in evaluation mode, pass "
            "a model whose dropout rates are 0."
        )


def _statistics(
    shape: Sequence[int], mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    channels = shape[0]
    statistics = tuple(mean or (0.0,) * channels), tuple(std or (1.0,) * channels)
    for name, values in zip(("mean", "std"), statistics, strict=True):
        if len(values) != channels:
            raise FedsimError(f"{name} has {len(values)} values, expected a value for each of {channels} channels.")
    return statistics


def _config(method: registry.Method, settings: Mapping[str, Any]) -> Any:
    try:
        return method.config.model_validate(dict(settings))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        strangers = [str(problem["loc"][0]) for problem in error.errors() if problem["type"] == "extra_forbidden"]
        hint = did_you_mean(strangers[0], method.config.model_fields) if strangers else ""
        raise FedsimError(f"settings of attack '{method.name}': {'; '.join(problems)}.{hint}") from error
