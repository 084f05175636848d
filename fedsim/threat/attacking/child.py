"""The process of an isolated attack: reads observations from standard input, and answers with guesses.

What the attack prints goes to standard error.
"""

from __future__ import annotations

import io
import json
import sys
from typing import IO, Any

from fedsim.core import process

process.prepare()

import torch  # noqa: E402

from fedsim.core import seeding  # noqa: E402
from fedsim.core.errors import reason  # noqa: E402
from fedsim.core.hooks import Attack, AttributeAttack, TraceAttack  # noqa: E402
from fedsim.core.registry import Kind  # noqa: E402
from fedsim.scenario.choices import Choice  # noqa: E402
from fedsim.threat.attacking import asking, attempt, frames, together  # noqa: E402

_Attack = Attack[Any] | AttributeAttack[Any] | TraceAttack[Any]
_KINDS: tuple[Kind, ...] = ("attack", "attribute", "trace")


def answer(attack: _Attack, kind: frames.Kind, payload: bytes, answers: IO[bytes]) -> bytes:
    """Return the frame that answers a request; steps of a search are written to `answers` meanwhile."""
    try:
        asked = torch.load(io.BytesIO(payload), weights_only=False)  # written by the run that started this process
        if isinstance(attack, TraceAttack):
            return frames.frame(frames.ANSWER, frames.packed(_read(attack, asked)))
        if isinstance(attack, AttributeAttack):
            return frames.frame(frames.ANSWER, frames.packed(asking.answer(attack, kind, asked)))
        if kind == frames.AT_ONCE:
            return frames.frame(frames.COUNT, str(together(attack, asked)).encode())
        generators = [torch.Generator() for _ in asked["generators"]]
        for generator, state in zip(generators, asked["generators"], strict=True):
            generator.set_state(state)

        def watch(step: Any) -> None:
            answers.write(frames.frame(frames.STEP, frames.of_step(step)))
            answers.flush()

        found = attempt(attack, asked["seen"], generators, watch, lambda: False)
        if isinstance(found, str):
            return frames.frame(frames.FAILED, found.encode())
        return frames.frame(frames.FOUND, frames.of_found(found))
    except Exception as error:  # whatever it is, it is this attack's failure
        return frames.frame(frames.FAILED, reason(error).encode())


def _read(attack: TraceAttack[Any], asked: dict[str, Any]) -> torch.Tensor:
    generator = torch.Generator()
    generator.set_state(asked["generator"])
    with seeding.isolate_randomness(asked["seed"]):
        return attack(asked["case"], generator)


def _made(about: dict[str, Any]) -> _Attack:
    kind: Kind = next(own for own in _KINDS if own in about)
    return Choice.model_validate(about[kind]).make(kind)


def _serve() -> None:
    lines = process.serve_parent()
    answers = lines.buffer
    requests = sys.stdin.buffer
    torch.set_num_threads(1)
    hello = frames.read(requests)
    if hello is None:
        return
    about = json.loads(hello[1])
    attack = _made(about)
    with seeding.isolate_randomness(about["seed"]):
        while (request := frames.read(requests)) is not None:
            answers.write(answer(attack, *request, answers))
            answers.flush()


if __name__ == "__main__":
    _serve()
