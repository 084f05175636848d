"""What is reachable from an object: every attack is held to it."""

import gc
import types
from collections.abc import Callable, Iterator

import numpy as np
import torch

from fedsim.core.types import Observation, Truth
from fedsim.scenario.world import World

SHARED_BY_ALL_CODE = (types.ModuleType, type, types.BuiltinFunctionType)


def reachable(root: object) -> Iterator[object]:
    """Every object that a chain of references leads to, through attributes, containers, closures and defaults.

    Modules, classes and the globals of functions are not followed: they belong to every piece of code alike.
    """
    seen: set[int] = set()
    todo = [root]
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, SHARED_BY_ALL_CODE):
            continue
        seen.add(id(item))
        yield item
        if isinstance(item, types.FunctionType):
            cells = [cell.cell_contents for cell in item.__closure__ or ()]
            todo += [*cells, *(item.__defaults__ or ()), *(item.__kwdefaults__ or {}).values(), item.__dict__]
            continue
        todo += gc.get_referents(item)
        if isinstance(item, dict):
            todo += item  # keys that are strings are no referents
        if isinstance(item, torch.Tensor) and item.grad_fn is not None:
            todo.append(item.grad_fn)


def tensors(root: object) -> list[torch.Tensor]:
    """Every tensor that is reached, and every array of numbers."""
    found = [item for item in reachable(root) if isinstance(item, torch.Tensor | np.ndarray)]
    arrays = (torch.as_tensor(item) for item in found if isinstance(item, np.ndarray) and item.dtype.kind in "biuf")
    return [*(item.detach() for item in found if isinstance(item, torch.Tensor)), *arrays]


def holds(found: list[torch.Tensor], secret: torch.Tensor) -> bool:
    storages = {tensor.untyped_storage().data_ptr() for tensor in found}
    if secret.untyped_storage().data_ptr() in storages:
        return True
    same_size = (tensor for tensor in found if tensor.numel() == secret.numel() and tensor.dtype == secret.dtype)
    return any(torch.equal(tensor.flatten(), secret.flatten()) for tensor in same_size)


Watched = Callable[..., tuple[Observation, Truth, World]]
