"""A second device for machines without one: its tensors compute on the CPU, and meet no tensor of the CPU.

They say that they are on `meta`, since PyTorch has that device everywhere, but hold numbers. As on a GPU, an operation
on tensors of two devices is an error (but for single numbers and indices), as is a generator of the CPU for a tensor
that is not there, and NumPy cannot read them. What PyTorch creates inside of forward-mode derivatives has no numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_iter, tree_map_only

ELSEWHERE = torch.device("meta")
_MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
_INDEXES = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
}


class Far(Tensor):
    """A tensor of the second device; `here` holds its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Far:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            layout=here.layout,
            device=ELSEWHERE,
            requires_grad=False,
        )
        made.here = here
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["here"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], _: Any, size: Any, stride: Any) -> Far:
        return Far(inner["here"])

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"Far({self.here!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = [own for own in tree_iter((args, kwargs)) if isinstance(own, Tensor)]
    is_far = any(isinstance(tensor, Far) for tensor in tensors)
    _check(func, args, kwargs, tensors)
    asked = kwargs.get("device")
    if asked is not None:
        is_far = torch.device(asked).type == ELSEWHERE.type
        kwargs = {**kwargs, "device": torch.device("cpu")}
    elif func is torch.ops.aten.copy_.default:
        is_far = isinstance(args[0], Far)
    here_args, here_kwargs = tree_map_only(Far, lambda own: own.here, (args, kwargs))
    found = func(*here_args, **here_kwargs)
    if not is_far:
        return found
    if asked is not None and func is torch.ops.aten._to_copy.default and isinstance(found, Tensor):
        return Far(found)
    wrapped = tree_map_only(Tensor, lambda own: own if isinstance(own, Far) else Far(own), found)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


def _check(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]) -> None:
    if func is torch.ops.aten.linalg_lstsq.default and kwargs.get("driver") not in (None, "gels"):
        raise RuntimeError("`driver` must be 'gels' elsewhere, as on a GPU")
    generator = kwargs.get("generator")
    is_far = any(isinstance(tensor, Far) for tensor in tensors)
    if generator is not None and (is_far or _names_far(kwargs)):
        raise RuntimeError(f"{func}: expected a generator of the other device, found one of the CPU")
    if any(tensor.device == ELSEWHERE and not isinstance(tensor, Far) for tensor in tensors):
        raise AssertionError(f"{func} got a tensor of `meta` that holds no numbers")
    if func in _MOVES or not is_far:
        return
    if func in _INDEXES:
        tensors = [own for own in tree_iter((args[0], args[2:])) if isinstance(own, Tensor)]
    near = [tensor for tensor in tensors if not isinstance(tensor, Far) and tensor.dim() > 0]
    if near and any(isinstance(tensor, Far) for tensor in tensors):
        raise RuntimeError(f"{func}: expected all tensors on one device, found one of the CPU of shape {near[0].shape}")


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _names_far(kwargs: dict[str, Any]) -> bool:
    return kwargs.get("device") is not None and torch.device(kwargs["device"]).type == ELSEWHERE.type


class _Device(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        has_far = any(isinstance(own, Far) for own in tree_iter((args, kwargs)))
        if not has_far and not _names_far(kwargs):
            return func(*args, **kwargs)
        return _run(func, args, kwargs)


class _Calls(TorchFunctionMode):
    """What PyTorch does without a dispatch: making a tensor of Python's numbers, and the way back."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and _names_far(kwargs):
            own = {name: value for name, value in kwargs.items() if name not in ("device", "requires_grad")}
            made = func(*args, **own).to(ELSEWHERE)
            return made.requires_grad_() if kwargs.get("requires_grad") else made
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], Far):
            args = (args[0], tree_map_only(list, torch.tensor, args[1], is_leaf=_is_list), *args[2:])
        if func is Tensor.tolist and isinstance(args[0], Far):
            return args[0].here.tolist()
        return func(*args, **kwargs)


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Have `meta` be a device that computes."""
    with _Calls(), _Device():
        yield ELSEWHERE


def far(tensor: Tensor) -> Tensor:
    """Return a tensor on the second device."""
    return cast("Tensor", tensor.to(ELSEWHERE))
