"""Devices of training and attacks: the CPU, or a GPU.

Random numbers are always drawn on the CPU, from the same generators in the same order, and then moved. So a seed gives
the same numbers on all devices, and results differ only by rounding. Results are moved back to the CPU before they are
scored, sent or stored.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, cast, get_args

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fedsim.core.errors import FedsimError, did_you_mean
from fedsim.core.foreign import pytorch
from fedsim.core.settings import DeviceName

CPU = torch.device("cpu")
ROUNDING = 1e-4
"""Tolerance between GPU and CPU results, for an update or a guess, relative to the norm of the CPU result."""

_T = TypeVar("_T")

_FACTORIES: frozenset[Callable[..., Any]] = frozenset(
    {
        *(torch.empty, torch.zeros, torch.ones, torch.full, torch.eye, torch.arange, torch.linspace, torch.logspace),
        *(torch.tensor, torch.as_tensor, torch.asarray, torch.scalar_tensor, torch.tril_indices, torch.triu_indices),
        *(torch.empty_strided, torch.hann_window, torch.hamming_window, torch.blackman_window, torch.kaiser_window),
        *(torch.fft.fftfreq, torch.fft.rfftfreq, torch.sparse_coo_tensor),
    }
)
_DRAWS: frozenset[Callable[..., Any]] = frozenset(
    {
        *(torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal),
        *(torch.rand_like, torch.randn_like, torch.randint_like),
        *(torch.bernoulli, torch.multinomial, torch.poisson, torch.binomial),
        *(Tensor.bernoulli, Tensor.multinomial),
    }
)
_DRAWS_IN_PLACE: frozenset[Callable[..., Any]] = frozenset(
    {
        *(Tensor.uniform_, Tensor.normal_, Tensor.bernoulli_, Tensor.random_, Tensor.exponential_),
        *(Tensor.log_normal_, Tensor.cauchy_, Tensor.geometric_),
    }
)
_ON_CPU: frozenset[Callable[..., Any]] = frozenset({torch.linalg.lstsq})  # the GPU routine does not determine the rank
_TO_NUMPY: frozenset[Callable[..., Any]] = frozenset({Tensor.numpy, Tensor.__array__})


def find_device(name: DeviceName) -> torch.device:
    """Return a device by name; `auto` is a GPU if available.

    Raises:
        FedsimError: the device is unavailable; the message names an alternative.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise FedsimError(
            "'cuda' is not available: PyTorch finds no CUDA device on this machine. Set device "
            "= 'cpu', or 'auto', which uses a GPU if available."
        )
    if name == "auto":
        return torch.device("cuda") if torch.cuda.is_available() else CPU
    return torch.device(name)


def device_of(text: str) -> DeviceName:
    """Return a user's text if it names an available device.

    Raises:
        FedsimError: it does not.
    """
    if text not in get_args(DeviceName):
        names = get_args(DeviceName)
        raise FedsimError(f"unknown device '{text}'. Expected any of: {', '.join(names)}.{did_you_mean(text, names)}")
    name = cast("DeviceName", text)
    find_device(name)
    return name


def move(value: _T, device: torch.device) -> _T:
    """Move all tensors of a value to a device; a value without tensors, or already there, is returned as is.

    Tensors are found in modules, dataclasses, tuples, lists and mappings. Modules are copied before they move.
    """
    return _Mover(device).move(value)


@contextmanager
def creating_on(device: torch.device) -> Iterator[None]:
    """Create tensors of the block on a device, with random numbers drawn on the CPU. No effect for the CPU."""
    if device.type == "cpu":
        yield
        return
    # Reproducible results: no reduced precision, and no choice of algorithms by benchmarking.
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with exact, _Placed(device):
        yield


class DeviceScope:
    """Run a block on a device: `to_device` moves values there, `to_cpu` moves results back to the CPU.

    No effect for the CPU, and inside another `DeviceScope`.
    """

    def __init__(self, device: torch.device) -> None:
        is_there = any(isinstance(mode, _Placed) for mode in pytorch.function_modes())
        self._device = CPU if is_there else device
        self._place = creating_on(self._device)

    def __enter__(self) -> Self:
        self._place.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._place.__exit__(kind, error, traceback)

    def to_device(self, value: _T) -> _T:
        """Return a value on the device."""
        return value if self._device.type == "cpu" else move(value, self._device)

    def to_cpu(self, value: _T) -> _T:
        """Return a value on the CPU."""
        return value if self._device.type == "cpu" else move(value, CPU)

    def copy_back(self, value: dict[str, Any], target: dict[str, Any]) -> None:
        """Copy a mapping back to the CPU, in place."""
        kept = self.to_cpu(value)
        if kept is not target:
            target.clear()
            target.update(kept)

    def outside(self, call: Callable[[_T], None]) -> Callable[[_T], None]:
        """Return a wrapper that moves its argument to the CPU; the wrapped function creates tensors on the CPU."""
        if self._device.type == "cpu":
            return call

        def called(value: _T) -> None:
            with _Placed(CPU):
                call(move(value, CPU))

        return called


class _Placed(TorchFunctionMode):
    """Sets the device of calls that create tensors, and draws random numbers on the CPU."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS:
            return self._draw(func, args, kwargs)
        if func in _DRAWS_IN_PLACE or getattr(func, "__module__", None) == "torch.nn.init":
            return _draw_in_place(func, args, kwargs)
        if func in _ON_CPU:
            return move(func(*move(args, CPU), **move(kwargs, CPU)), _device_of(args, kwargs) or self.device)
        if func in _TO_NUMPY:
            return func(cast("Tensor", args[0]).cpu(), *args[1:], **kwargs)
        if func in _FACTORIES and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": self.device}
        return func(*args, **kwargs)

    def _draw(self, func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        given = _device_of(args, kwargs)
        device = kwargs.get("device") or given or self.device
        settings = {name: value for name, value in kwargs.items() if name not in ("device", "requires_grad")}
        if given is None:
            settings["device"] = CPU
        numbers = func(*move(args, CPU), **move(settings, CPU)).to(device)
        return numbers.requires_grad_() if kwargs.get("requires_grad") else numbers


def _device_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.device | None:
    given = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
    return next((tensor.device for tensor in given), None)


def _draw_in_place(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    target = cast("Tensor", args[0] if args else kwargs["tensor"])
    keywords = {name: value for name, value in kwargs.items() if name != "tensor"}
    numbers = torch.empty(target.shape, dtype=target.dtype, device=CPU)
    func(numbers, *move(args[1:], CPU), **move(keywords, CPU))
    with torch.no_grad():
        return target.copy_(numbers)


class _Mover:
    """Moves nested values to a device; objects shared before stay shared."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._done: dict[int, tuple[Any, Any]] = {}  # the original is stored, so that its id is not reused

    def move(self, value: Any) -> Any:
        if id(value) not in self._done:
            self._done[id(value)] = (value, self._fresh(value))
        return self._done[id(value)][1]

    def _fresh(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, nn.Module):
            return self._module(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            values = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
            changed = {name: part for name, old in values.items() if (part := self.move(old)) is not old}
            return dataclasses.replace(value, **changed) if changed else value
        if isinstance(value, tuple | list):
            return self._sequence(cast("tuple[Any, ...] | list[Any]", value))
        if isinstance(value, Mapping):
            parts = {key: self.move(old) for key, old in cast("Mapping[Any, Any]", value).items()}
            same = all(parts[key] is old for key, old in cast("Mapping[Any, Any]", value).items())
            return value if same else parts
        return value

    def _tensor(self, tensor: Tensor) -> Tensor:
        if tensor.device.type == self._device.type:
            return tensor
        return tensor.detach().to(self._device).requires_grad_(tensor.requires_grad)

    def _module(self, module: nn.Module) -> nn.Module:
        tensors = (*module.parameters(), *module.buffers())
        if all(tensor.device.type == self._device.type for tensor in tensors):
            return module
        return copy.deepcopy(module).to(self._device)

    def _sequence(self, value: tuple[Any, ...] | list[Any]) -> Any:
        parts = [self.move(old) for old in value]
        if all(part is old for part, old in zip(parts, value, strict=True)):
            return value
        if hasattr(value, "_fields"):
            return type(value)(*parts)
        return type(value)(parts)  # a list, a tuple, or a torch return type
