"""What travels between a run and the process of an attack: frames of one kind byte, a length and a payload.

To the attack goes `torch.save` of the observation: tensors by value, classes by name. Both ends are ours then, and only
what `observe` built is in it. What comes back was made by the attack, so it is read as plain values: numbers and text
as JSON, tensors with ``weights_only=True``.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections.abc import Mapping
from dataclasses import fields
from typing import IO, Any, cast

import torch
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch, Reconstruction, Step

Kind = bytes
HELLO, AT_ONCE, SEARCH, READ, DESCRIBE = b"h", b"a", b"s", b"r", b"d"  # to the attack
COUNT, STEP, FOUND, ANSWER, FAILED = b"c", b"i", b"g", b"w", b"f"  # from it

_HEAD = struct.Struct("<cQ")
HEAD_SIZE = _HEAD.size


def frame(kind: Kind, payload: bytes) -> bytes:
    """Return a frame."""
    return _HEAD.pack(kind, len(payload)) + payload


def head(content: bytes) -> tuple[Kind, int]:
    """Return the kind of a frame and the length of its payload, from its first `HEAD_SIZE` bytes."""
    return _HEAD.unpack(content)


def read(pipe: IO[bytes]) -> tuple[Kind, bytes] | None:
    """Return kind and payload of the next frame; None where the pipe has ended."""
    start = pipe.read(HEAD_SIZE)
    if len(start) < HEAD_SIZE:
        return None
    kind, length = head(start)
    return kind, pipe.read(length)


def saved(value: Any) -> bytes:
    """Return `torch.save` of a value.

    Raises:
        FedsimError: something in it has no name by which another process finds it.
    """
    file = io.BytesIO()
    try:
        torch.save(value, file)
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
        raise FedsimError(
            f"what the attacker sees cannot be sent to another process: {error}. Put classes and functions of your own "
            "into a module that can be imported, or run without --isolate."
        ) from error
    return file.getvalue()


def of_step(step: Step) -> bytes:
    """Return a step as a payload: a line of JSON, then the guess."""
    guess = step.guess.detach().contiguous()
    about = {
        "numbers": [step.restart, step.iteration, step.iterations, float(step.objective), float(step.best)],
        "shape": list(guess.shape),
        "dtype": str(guess.dtype).removeprefix("torch."),
    }
    return json.dumps(about).encode() + b"\n" + guess.flatten().view(torch.uint8).numpy().tobytes()


def step_of(payload: bytes) -> Step:
    """Return the step of a payload."""
    line, _, content = payload.partition(b"\n")
    about = json.loads(line)
    kind = getattr(torch, about["dtype"])
    flat = torch.frombuffer(bytearray(content), dtype=kind) if content else torch.empty(0, dtype=kind)
    return Step(*about["numbers"], guess=flat.reshape(about["shape"]))


def of_found(found: list[Reconstruction]) -> bytes:
    """Return guesses as a payload.

    Raises:
        FedsimError: a guess holds what is neither tensor, number nor text.
    """
    return saved([{field.name: _plain(getattr(one, field.name)) for field in fields(one)} for one in found])


def read_answer(kind: Kind, payload: bytes) -> Tensor:
    """Return the answer of an attack on traces or attributes, which is read as plain values.

    Raises:
        FedsimError: it failed, or answered with something else.
    """
    if kind != ANSWER:
        raise FedsimError(payload.decode(errors="replace"))
    answer = torch.load(io.BytesIO(payload), weights_only=True)
    if not isinstance(answer, Tensor):
        raise FedsimError(f"its answer is a {type(answer).__name__}, expected a tensor.")
    return answer


def read_guesses(payload: bytes) -> list[Reconstruction]:
    """Return the guesses of a payload, which stems from the attack and is read as plain values."""
    read = cast("list[dict[str, Any]]", torch.load(io.BytesIO(payload), weights_only=True))
    return [_guess(one) for one in read]


def _guess(values: dict[str, Any]) -> Reconstruction:
    trained = values["trained"]
    return Reconstruction(**{**values, "trained": None if trained is None else Batch(*trained)})


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, Batch):
        return (_plain(value.inputs), _plain(value.labels), _plain(value.given))
    if isinstance(value, Mapping):
        return {str(key): _plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_plain(own) for own in value)
    raise FedsimError(f"its guess holds a {type(value).__name__}, expected tensors, numbers and text.")
