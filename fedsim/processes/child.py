"""The process of an isolated method: reads requests from standard input, and answers.

The method's standard output is redirected to standard error.
"""

from __future__ import annotations

import io
import sys
from typing import IO, Any

from fedsim.core import process

process.prepare()

import torch  # noqa: E402

from fedsim.core.choices import Choice  # noqa: E402
from fedsim.core.errors import reason  # noqa: E402
from fedsim.processes import frames, packing  # noqa: E402
from fedsim.processes.methods import InProcessRunner  # noqa: E402


def answer(method: InProcessRunner, payload: bytes, answers: IO[bytes]) -> bytes:
    """Return the frame that answers a request; steps of a search are written to `answers` meanwhile."""

    def watch(step: Any) -> None:
        answers.write(frames.frame(frames.STEP, packing.pack_step(step)))
        answers.flush()

    try:
        # The run that started this wrote the payload.
        name, seen, states, seconds = torch.load(io.BytesIO(payload), weights_only=False)
        generators = [_generator(seed, state) for seed, state in states]
        function = getattr(type(method.method), name)
        result = method.call(function, *seen, generators=generators, watch=watch, seconds=seconds)
        return frames.frame(frames.ANSWER, packing.pack_values(result))
    except Exception as error:  # any exception is a failure of the method
        return frames.frame(frames.FAILED, reason(error).encode())


def _generator(seed: int, state: torch.Tensor) -> torch.Generator:
    generator = torch.Generator().manual_seed(seed)
    generator.set_state(state)
    return generator


def _serve() -> None:
    answers = process.serve_parent()
    requests = sys.stdin.buffer
    torch.set_num_threads(1)
    hello = frames.read(requests)
    if hello is None:
        return
    method = InProcessRunner(Choice.model_validate_json(hello[1]).make("attack"))
    while (request := frames.read(requests)) is not None:
        answers.write(answer(method, request[1], answers))
        answers.flush()


if __name__ == "__main__":
    _serve()
