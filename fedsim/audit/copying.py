"""Copies of a user's model for an audit.

The user's model stays unchanged. If it returns an object instead of a tensor, a forward hook on the copy extracts
``logits``. Modules in evaluation mode stay in it, even when ``train()`` is called.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from fedsim.audit.foreign import reason
from fedsim.core.errors import FedsimError
from fedsim.scenario import user_models

_INSIDE = ("logits", "out")  # score entries of transformers and of torchvision's segmentation models


def copy_model(returned: object, logits: Callable[[Any], Tensor] | None, name: str) -> nn.Module:
    """Return a CPU float32 copy of a model that returns scores; modules keep their training or evaluation mode.

    Args:
        returned: the user's object, expected to be a module.
        logits: extracts the scores from the model's output; by default the output is a tensor or has ``logits``.
        name: name of the factory, for errors.

    Raises:
        FedsimError: the object is no model, cannot be copied, or has a structure that cannot be trained or hooked.
    """
    model = cast("Any", returned)
    if isinstance(model, type):
        raise FedsimError(
            f"'{name}' returned the class {model.__name__} for the model, expected {model.__name__}(...)."
        )
    if not isinstance(model, nn.Module):
        raise FedsimError(f"'{name}' returned {type(model).__name__} for the model, expected a torch.nn.Module.")
    user_models.check_structure(model, f"the model of '{name}'")
    try:
        copied_model = copy.deepcopy(model).cpu().float()
    except Exception as error:
        raise FedsimError(f"the model of '{name}' cannot be copied: {reason(error)}.") from error
    for frozen in _frozen(copied_model).values():
        cast("Any", frozen).train = partial(_train_children, frozen)
    copied_model.register_forward_hook(partial(_scores, logits))
    return copied_model


def _frozen(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules in evaluation mode, by name."""
    return {name: module for name, module in model.named_modules() if not module.training}


def _train_children(frozen: nn.Module, mode: bool = True) -> nn.Module:
    """Set the mode of the children only; replaces `nn.Module.train` on a module that stays in evaluation mode."""
    for child in frozen.children():
        child.train(mode)
    return frozen


def modes(model: nn.Module) -> tuple[str, ...]:
    """Return a note if modules stay in evaluation mode, since pretrained models are often loaded in it by accident."""
    frozen = [module for module in _frozen(model).values() if not any(True for _ in module.children())]
    if not frozen:
        return ()
    kinds = ", ".join(sorted({type(module).__name__ for module in frozen}))
    return (
        f"Modules that were returned in evaluation mode stay in it: {kinds}. If the client calls model.train() first, "
        "call it before you return the model.",
    )


def _scores(logits: Callable[[Any], Tensor] | None, _module: nn.Module, _inputs: Any, output: Any) -> Tensor:
    """Return the scores in a model's output; a forward hook."""
    return scores_in(output) if logits is None else logits(output)


class NoScores(TypeError):
    """The model's output contains no scores."""


def scores_in(output: Any) -> Tensor:
    """Return the scores in a model's output: a tensor, or the ``logits`` or ``out`` entry of an object or mapping.

    Raises:
        NoScores: the output contains none.
    """
    if isinstance(output, Tensor):
        return output
    ask = cast("Any", output).get if isinstance(output, Mapping) else partial(getattr, output)
    for section in (ask(name, None) for name in _INSIDE):
        if isinstance(section, Tensor):
            return section
    raise NoScores(f"it returns {type(output).__name__} without 'logits'; give Subject(logits=...) to take them out")
