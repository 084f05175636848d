"""Checks of a user's model before the run, so that an error is a single sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from fedsim.core import seeding
from fedsim.core.errors import FedsimError, describe_exception, first_line
from fedsim.core.foreign import pytorch
from fedsim.scenario.user_code import forbid_exit

Run = Callable[[nn.Module, Tensor], Tensor]

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_OF_OPACUS = "AbstractGradSampleModule"  # by name, because the import of Opacus takes seconds


def check_model(
    make: Callable[[], object],
    inputs: Tensor,
    run: Run,
    shape: tuple[int, ...] | None,
    loss: Callable[[Tensor], Tensor] | None,
    *,
    owner: str,
) -> None:
    """Build a model twice and try a training step, to detect later failures.

    Args:
        make: builds the model.
        inputs: a few training examples.
        run: runs a model on inputs, as the task does.
        shape: expected output shape; None if only the number of rows is known.
        loss: maps outputs to a scalar loss; None if a component computes the loss.
        owner: name of the model at the start of a message.

    Raises:
        FedsimError: the model cannot be trained, watched or replayed; the message gives the reason and the fix.
    """
    with forbid_exit(owner):
        model = _make_model(make, owner)
        check_structure(model, owner)
        _check_types(model, owner)
        _check_same(model, _make_model(make, owner), owner)
        _check_step(model.train(), inputs, run, shape, loss, owner)


def check_structure(model: nn.Module, owner: str) -> None:
    """Check that a model's modules and parameters can be trained and watched.

    Raises:
        FedsimError: it is wrapped, scripted or compiled, has no trainable parameter, or has an invalid tensor.
    """
    for module in model.modules():
        if isinstance(module, _WRAPPERS):
            raise FedsimError(
                f"{owner} is wrapped in {type(module).__name__}, which spreads a batch over devices. Return its "
                ".module."
            )
        if any(kind.__name__ == _OF_OPACUS for kind in type(module).__mro__):
            raise FedsimError(
                f"{owner} is wrapped in {type(module).__name__} of Opacus, which keeps a gradient of every example. "
                "Return its .to_standard_module(), and give its clipping and noise as defense 'dp-sgd'."
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise FedsimError(
                f"{owner} is scripted, so nothing inside can be watched. Return the module as it was before torch.jit."
            )
        if hasattr(module, "_orig_mod"):
            raise FedsimError(
                f"{owner} is compiled, so nothing inside can be watched. Return the module as it was before "
                "torch.compile."
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise FedsimError(
                f"{owner} has a lazy layer: '{name}' has no size yet. Give the layer its size, or call the model once "
                "before you return it."
            )
        if tensor.device.type != "cpu":
            raise FedsimError(f"{owner} has '{name}' on device '{tensor.device}', expected 'cpu'. Return model.cpu().")
    for name, parameter in model.named_parameters():
        _check_values(name, parameter, owner)
    _check_trainable(model, owner)


def _check_values(name: str, parameter: Tensor, owner: str) -> None:
    if not parameter.numel():
        raise FedsimError(
            f"{owner} has an empty parameter: '{name}' has shape {tuple(parameter.shape)}. Leave it out of the model."
        )
    if any(stride == 0 and size > 1 for stride, size in zip(parameter.stride(), parameter.shape, strict=True)):
        raise FedsimError(
            f"{owner} has a parameter with shared memory: '{name}' is an expanded tensor. Call .clone() on it."
        )
    if not bool(parameter.isfinite().all()):
        raise FedsimError(f"{owner} has first weights that are not finite: '{name}'. Initialise it.")


def _check_trainable(model: nn.Module, owner: str) -> None:
    if any(parameter.requires_grad for parameter in model.parameters()):
        return
    why = "all its parameters are frozen" if any(True for _ in model.parameters()) else "it has no parameters"
    raise FedsimError(
        f"{owner} has nothing to train: {why}, so a client would send nothing. Keep a tensor as nn.Parameter, with "
        "requires_grad left on."
    )


def _check_types(model: nn.Module, owner: str) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if (tensor.is_floating_point() or tensor.is_complex()) and tensor.dtype != torch.float32:
            raise FedsimError(
                f"{owner} has '{name}' of type {tensor.dtype}, expected torch.float32. Return model.float()."
            )


def _check_same(model: nn.Module, repeated: nn.Module, owner: str) -> None:
    """Check that two models built with the same seed are equal, because every process builds its own."""
    first, second = model.state_dict(), repeated.state_dict()
    odd = sorted(first.keys() ^ second.keys())
    odd += [name for name, tensor in first.items() if name in second and not _equal(tensor, second[name])]
    if odd:
        raise FedsimError(
            f"{owner} returns different models on equal calls: '{odd[0]}' differs. Initialise "
            "with torch's global generator, which is seeded, and keep no state between calls."
        )


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second)
    return type(first) is type(second)


def _check_step(
    model: nn.Module,
    inputs: Tensor,
    run: Run,
    shape: tuple[int, ...] | None,
    loss: Callable[[Tensor], Tensor] | None,
    owner: str,
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    outputs = call_model(model, inputs, owner, run)
    check_outputs(outputs, len(inputs), shape, owner)
    model.load_state_dict(before, strict=False)
    repeated = call_model(model, inputs, owner, run)
    if not torch.equal(outputs, repeated):
        raise FedsimError(
            f"{owner} returns different outputs for the same examples, weights and seed, so a "
            "client's round cannot be replayed for scoring. Use torch's global generator, "
            "which is seeded, and keep no state between calls except registered buffers."
        )
    _check_gradient(model, repeated.sum() if loss is None else loss(repeated), owner)


def _plainly(model: nn.Module, inputs: Tensor) -> Tensor:
    return model(inputs)


def call_model(model: nn.Module, inputs: Tensor, owner: str, run: Run = _plainly) -> Tensor:
    """Run a model, and return its output.

    Raises:
        FedsimError: it raises, or changes its inputs in place.
    """
    given = inputs.clone()
    writes = pytorch.write_count(given)
    try:
        with seeding.isolate_randomness(0):
            outputs = run(model, given)
    except Exception as error:
        shape = tuple(inputs.shape[1:])
        raise FedsimError(
            f"{owner} fails on {len(inputs)} examples of shape {shape}: {describe_exception(error)}."
        ) from error
    if pytorch.write_count(given) != writes:
        raise FedsimError(
            f"{owner} changes its input in place, and with it the client's data. Begin with inputs.clone(), or leave "
            "inplace=True out of the first layer."
        )
    return outputs


def check_outputs(outputs: object, examples: int, shape: tuple[int, ...] | None, owner: str) -> None:
    """Check the output of a model.

    Args:
        outputs: output of the model.
        examples: number of examples in the batch.
        shape: expected shape; None if only the number of rows is known.
        owner: name of the model at the start of a message.

    Raises:
        FedsimError: it is no tensor, or has another shape, type or device, or values that are not finite.
    """
    expected = f"one tensor of shape {shape}" if shape is not None else f"one tensor of {examples} rows"
    if not isinstance(outputs, Tensor):
        raise FedsimError(f"{owner} returns {_kind(outputs)}, expected {expected}. Return the scores alone.")
    if tuple(outputs.shape) != shape if shape is not None else outputs.shape[:1] != (examples,):
        ending = ", a score for every class of every label" if shape is not None else ""
        raise FedsimError(
            f"{owner} returns shape {tuple(outputs.shape)} for {examples} examples, expected {expected}{ending}."
        )
    if outputs.dtype != torch.float32:
        raise FedsimError(f"{owner} returns {outputs.dtype}, expected torch.float32. Leave casts and autocast out.")
    if not bool(outputs.isfinite().all()):
        raise FedsimError(f"{owner} returns scores that are not finite with its first weights. Check its scale.")


def _kind(outputs: object) -> str:
    if isinstance(outputs, tuple | list):
        return f"a {'tuple' if isinstance(outputs, tuple) else 'list'} of {len(cast('tuple[object, ...]', outputs))}"
    return "None" if outputs is None else f"{type(outputs).__name__}"


def _check_gradient(model: nn.Module, loss: Tensor, owner: str) -> None:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    try:
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    except RuntimeError as error:
        raise FedsimError(
            f"{owner} gives no gradient: {first_line(error).rstrip('.')}. Its scores must come from its parameters, by "
            "operations that torch can differentiate: no .detach(), no .data, no torch.no_grad()."
        ) from error
    if all(gradient is None for gradient in gradients):
        raise FedsimError(f"{owner} gives no gradient: its scores do not depend on any trainable parameter.")
    for name, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None and gradient.layout != torch.strided:
            raise FedsimError(f"{owner} has a sparse gradient at '{name}'. Leave sparse=True out of the layer.")


def _make_model(make: Callable[[], object], owner: str) -> nn.Module:
    with seeding.isolate_randomness(0):
        model = make()
    if not isinstance(model, nn.Module):
        raise FedsimError(f"{owner} is of type {type(model).__name__}, expected a torch.nn.Module.")
    return model
