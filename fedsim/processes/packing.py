"""Payloads of the frames between a run and an isolated method.

The request is `torch.save` of the observation: tensors by value, classes by name. `observe` built the observation, so
the subprocess may unpickle it. The answer comes from the method and is untrusted: a line of JSON, then the bytes of its
tensors. An answer contains no code, and parsing it needs no more memory than its bytes.
"""

from __future__ import annotations

import io
import json
import math
import pickle
from collections.abc import Mapping
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch, Reconstruction, Step

MOST_TEXT = 8 << 20  # bytes of a reply's JSON: a history of a hundred thousand steps has a third of that
_LONGEST_REASON = 10_000  # characters
_TYPES = {
    str(kind).removeprefix("torch."): kind
    for kind in (
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
    )
}


class _Pickler(pickle.Pickler):
    """Writes a tensor that is a view of more values as a copy: torch would write all values of its memory."""

    def reducer_override(self, obj: Any) -> Any:
        """Return the reduction of a copy for such a view, and leave everything else to pickle."""
        is_plain = type(obj) is Tensor and obj.layout == torch.strided and not obj.is_quantized
        if is_plain and not _fills_its_memory(obj):
            copy = obj.detach().clone()
            return copy.requires_grad_(obj.requires_grad).__reduce_ex__(2)
        return NotImplemented


def _fills_its_memory(tensor: Tensor) -> bool:
    """Return whether a tensor holds each value of its memory once."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


_PICKLE = SimpleNamespace(__name__="pickle", Pickler=_Pickler)  # the part of the module pickle that `torch.save` uses


def serialise_value(value: Any) -> bytes:
    """Return `torch.save` of a value, where each tensor brings its own values alone.

    Raises:
        FedsimError: something in it has no name by which another process finds it.
    """
    file = io.BytesIO()
    try:
        torch.save(value, file, pickle_module=_PICKLE)
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
        raise FedsimError(
            f"the attacker's observation cannot be sent to a subprocess: {error}. Put your own "
            "classes and functions into an importable module, or run without --isolate."
        ) from error
    return file.getvalue()


def pack_values(value: Any) -> bytes:
    """Return plain values and tensors as a payload.

    Raises:
        FedsimError: a part is neither tensor, number, text, batch, guess, nor a list or table of these.
    """
    parts: list[bytes] = []
    line = json.dumps(_plain(value, parts)).encode()
    return b"".join([line, b"\n", *parts])


def unpack_values(payload: bytes) -> Any:
    """Return the values of a payload, lists as tuples.

    Raises:
        FedsimError: it is longer or shorter than it says, or a tensor has no such shape or type.
    """
    end = payload.find(b"\n", 0, MOST_TEXT + 1)
    if end < 0:
        raise FedsimError(f"its answer is malformed or has more than {MOST_TEXT:,} bytes besides its tensors.")
    return _Reader(memoryview(payload)[end + 1 :]).whole(json.loads(payload[:end]))


def pack_step(step: Step) -> bytes:
    """Return a step as a payload."""
    numbers = (step.restart, step.iteration, step.iterations, float(step.objective), float(step.best))
    return pack_values([*numbers, step.guess])


def step_of(payload: bytes) -> Step:
    """Return the step of a payload."""
    *numbers, guess = unpack_values(payload)
    return Step(*numbers, guess=guess)


def read_reason(payload: bytes) -> str:
    """Return the reason of an attack's failure as text, truncated."""
    return payload.decode(errors="replace")[:_LONGEST_REASON]


def _plain(value: Any, parts: list[bytes]) -> Any:
    """Return a value as JSON data, and append the bytes of its tensors to `parts`."""
    if isinstance(value, Tensor):
        return {"tensor": _describe_tensor(value.detach().cpu(), parts)}
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, Batch):
        return {"batch": [_plain(part, parts) for part in (value.inputs, value.labels, value.extra_inputs)]}
    if isinstance(value, Mapping | Reconstruction):
        table = (
            value if isinstance(value, Mapping) else {field.name: getattr(value, field.name) for field in fields(value)}
        )
        kind = "table" if isinstance(value, Mapping) else "guess"
        return {kind: {str(key): _plain(part, parts) for key, part in table.items()}}
    if isinstance(value, list | tuple):
        return [_plain(part, parts) for part in value]
    raise FedsimError(f"its answer holds a {type(value).__name__}, expected tensors, numbers and text.")


def _describe_tensor(tensor: Tensor, parts: list[bytes]) -> list[Any]:
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in _TYPES or tensor.layout != torch.strided:
        raise FedsimError(f"its answer holds a tensor of {tensor.dtype} ({tensor.layout}), expected plain numbers.")
    parts.append(tensor.resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return [name, *tensor.shape]


class _Reader:
    """Parses values from a payload with concatenated tensor bytes."""

    def __init__(self, content: memoryview) -> None:
        self._content = content

    def whole(self, value: Any) -> Any:
        """Return a value that all bytes belong to."""
        result = self._value(value)
        if len(self._content):
            raise FedsimError(f"its answer has {len(self._content):,} bytes too many.")
        return result

    def _value(self, value: Any) -> Any:
        if isinstance(value, list):
            return tuple([self._value(part) for part in value])
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "tensor":
            return self._tensor(*content)
        if kind == "batch":
            return Batch(*(self._value(part) for part in content))
        table = {key: self._value(part) for key, part in content.items()}
        return Reconstruction(**table) if kind == "guess" else table

    def _tensor(self, name: str, *shape: int) -> Tensor:
        kind = _TYPES[name]
        length = kind.itemsize * math.prod(shape)
        limit = kind.itemsize * math.prod(max(1, size) for size in shape)  # no tensor without values has many of them
        if min(shape, default=0) < 0 or length > len(self._content) or (not length and limit > MOST_TEXT):
            raise FedsimError(f"its answer has no {length:,} bytes for a tensor of shape {shape}.")
        content, self._content = bytearray(self._content[:length]), self._content[length:]
        if not length:
            return torch.empty(shape, dtype=kind)
        if kind == torch.bool:  # another byte than 0 and 1 would be neither
            return torch.frombuffer(content, dtype=torch.uint8).ne(0).reshape(shape)
        return torch.frombuffer(content, dtype=kind).reshape(shape)
