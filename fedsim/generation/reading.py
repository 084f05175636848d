"""Evaluation of a model: evaluation mode, no gradients, recorded internals, and restored afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.core.nets.kept_tokens import kept_tokens
from fedsim.core.types import Activations


@dataclass
class Inside:
    """Records of a model's internals: kept tokens by module, a tuple per pass, and outputs of modules."""

    kept_tokens: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    activations: Activations = ()

    @property
    def counts(self) -> dict[str, int]:
        """Number of tokens that each module kept, summed over passes."""
        return {f"kept.{place or 'model'}": sum(map(sum, passes)) for place, passes in self.kept_tokens.items()}

    def followed_by(self, later_reading: Inside) -> Inside:
        """Return the records of both in sequence."""
        kept = {
            place: [*passes, *later_reading.kept_tokens.get(place, ())] for place, passes in self.kept_tokens.items()
        }
        return Inside({**later_reading.kept_tokens, **kept}, (*self.activations, *later_reading.activations))


@contextmanager
def evaluation_mode(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Set all modules to evaluation mode without gradients; restore each module's mode afterwards."""
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def reading_inside(model: nn.Module, cuts: Sequence[str], reduces: bool) -> Iterator[Inside]:
    """Record outputs of the modules in `cuts` and the tokens kept by reducers; complete after the context."""
    reading = Inside()
    seen: list[tuple[str, Tensor]] = []
    with ExitStack() as stack:
        reading.kept_tokens = stack.enter_context(kept_tokens(model)) if reduces else {}
        for name in cuts:
            stack.callback(model.get_submodule(name).register_forward_hook(_make_recorder(name, seen)).remove)
        yield reading
    reading.activations = tuple(seen)


def _make_recorder(name: str, seen: list[tuple[str, Tensor]]) -> Callable[..., None]:
    def note(_module: nn.Module, _inputs: object, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        seen.append((name, first.detach().clone()))

    return note
